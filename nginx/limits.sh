#!/bin/sh
# Run by the entrypoint of the image before nginx: gives nginx the limits that the service has. The service, without
# which nginx does not start, has refused what is no number.
set -eu
awk -v mib="${MAX_REQUEST_SIZE_MB:-10}" -v seconds="${REQUEST_TIMEOUT_SECONDS:-60}" 'BEGIN {
  printf "client_max_body_size %d;\n", mib * 1048576 + 0.5
  # A little more than the service takes: its own answer is the better one.
  printf "proxy_read_timeout %dms;\n", seconds * 1000 + 5000
}' >"${LIMITS_FILE:-/tmp/limits.conf}"
