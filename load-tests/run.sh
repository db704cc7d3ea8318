#!/usr/bin/env bash
# Goes with the example: src/features/orders
# Runs one kind of load test: load-tests/run.sh [smoke|steady|stress|spike|soak|breakpoint]
# Takes BASE_URL and API_KEYS_FILE (a key on each line, made with a high --limit) from the environment, and k6 from
# PATH, or else from its image, in the compose stack that runs here (profile `load`). Ends as k6 does: 99 when a
# threshold was missed.
set -Eeuo pipefail

export TEST_TYPE=${1:-smoke}
: "${API_KEYS_FILE:?a file with a key on each line, made with: api-key create --limit 1000000}"
API_KEYS_FILE=$(realpath "$API_KEYS_FILE")
export API_KEYS_FILE LOAD_KEYS_FILE=$API_KEYS_FILE
cd "$(dirname "$0")/.."
if command -v k6 >/dev/null; then
  : "${BASE_URL:?where the API answers, such as https://api.example.com}"
  exec k6 run load-tests/api-load-test.js
fi
if docker compose version >/dev/null 2>&1; then
  exec docker compose --profile load run --rm --user "$(id -u):$(id -g)" load
fi
echo 'Neither k6 nor Docker is here: https://grafana.com/docs/k6/latest/set-up/install-k6/' >&2
exit 1
