#!/bin/sh
# Run by the entrypoint of the image before nginx: writes what nginx.conf and conf.d include from /tmp.
set -eu
folder=${INCLUDES:-/tmp}

# The limits that the service has. The service, without which nginx does not start, has refused what is no number.
awk -v mib="${MAX_REQUEST_SIZE_MB:-10}" -v seconds="${REQUEST_TIMEOUT_SECONDS:-60}" 'BEGIN {
  printf "client_max_body_size %d;\n", mib * 1048576 + 0.5
  # A little more than the service takes: its own answer is the better one.
  printf "proxy_read_timeout %dms;\n", seconds * 1000 + 5000
}' >"$folder/limits.conf"

# What each server of conf.d listens to by IPv6. Where the kernel has none, nginx would not start with such a line.
listen() {
  if [ -e "${IF_INET6:-/proc/net/if_inet6}" ]; then echo "listen [::]:$2;"; fi >"$folder/listen-$1.conf"
}
listen http '8080 default_server'
listen unknown '8443 ssl default_server'
listen https '8443 ssl'
