#!/bin/sh
# The entrypoint of the image runs this before nginx. It writes the files in /tmp that nginx.conf and conf.d include.
set -eu
folder=${INCLUDES:-/tmp}

# The same limits as in the service. nginx starts after the service, which has refused invalid numbers.
awk -v mib="${MAX_REQUEST_SIZE_MB:-10}" -v seconds="${REQUEST_TIMEOUT_SECONDS:-60}" 'BEGIN {
  printf "client_max_body_size %d;\n", mib * 1048576 + 0.5
  # Longer than the timeout of the service, because its own 504 says more.
  printf "proxy_read_timeout %dms;\n", seconds * 1000 + 5000
}' >"$folder/limits.conf"

# `listen` lines for IPv6. Without IPv6 in the kernel, nginx would not start with them.
listen() {
  if [ -e "${IF_INET6:-/proc/net/if_inet6}" ]; then echo "listen [::]:$2;"; fi >"$folder/listen-$1.conf"
}
listen http '8080 default_server'
listen unknown '8443 ssl default_server'
listen https '8443 ssl'
