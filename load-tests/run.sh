#!/usr/bin/env bash
# Goes with the example: src/features/orders
# Runs one kind of load test: load-tests/run.sh [smoke|steady|stress|spike|soak|breakpoint|limits]
# Set BASE_URL and API_KEYS_FILE (one key per line). Uses k6 from the PATH, or its image, by default against the compose
# stack that runs here. Exits as k6 does: 99 if a promise was missed. Writes results to RESULTS, by default
# load-tests/results. See docs/load-testing.md.
set -Eeuo pipefail

fail() {
  printf '%s\n' "$@" >&2
  exit 1
}

export TEST_TYPE=${1:-smoke}
case $TEST_TYPE in
  smoke | steady | stress | spike | soak | breakpoint | limits) ;;
  *) fail "No such load test: $TEST_TYPE" 'Usage: load-tests/run.sh [smoke|steady|stress|spike|soak|breakpoint|limits]' ;;
esac
[ -n "${API_KEYS_FILE:-}" ] || fail \
  'Set API_KEYS_FILE: a file with an API key on each line. Make one for each of a few tenants with' \
  "npm run api-key -- create --tenant load-1 --scopes 'orders:read,orders:write,status:read' --limit 1000000"
[ -r "$API_KEYS_FILE" ] || fail "API_KEYS_FILE: $API_KEYS_FILE cannot be read"
grep -q '[^[:space:]]' "$API_KEYS_FILE" || fail "API_KEYS_FILE: $API_KEYS_FILE holds no key"
keys=$(realpath "$API_KEYS_FILE")
mkdir -p "${RESULTS:=$(dirname "$0")/results}" || fail "RESULTS: $RESULTS cannot be made"
RESULTS=$(realpath "$RESULTS")
export API_KEYS_FILE=$keys LOAD_KEYS_FILE=$keys RESULTS
cd "$(dirname "$0")/.."

if command -v k6 >/dev/null; then
  [ -n "${BASE_URL:-}" ] || fail 'Set BASE_URL: where the API answers, such as https://api.example.com'
  # k6 listens on a fixed port by default, which another run may use.
  run=(k6 run --address localhost:0 load-tests/api-load-test.js)
  # The progress display needs a terminal.
  [ -t 1 ] || run+=(--quiet)
elif docker info >/dev/null 2>&1; then
  run=(docker compose --profile load run --rm --user "$(id -u):$(id -g)")
  if [ -n "${BASE_URL:-}" ]; then
    # Another target: do not use the stack that runs here.
    run+=(--no-deps)
    export STATUS_URL=${STATUS_URL:-}
  fi
  run+=(load)
else
  fail 'k6 is not on PATH, and no Docker answers that could run its image. Install k6:' \
    'https://grafana.com/docs/k6/latest/set-up/install-k6/, or go install go.k6.io/k6@v1.8.1'
fi

code=0
"${run[@]}" || code=$?
echo "Results of this and earlier runs: $RESULTS"
exit "$code"
