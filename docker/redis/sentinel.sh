#!/bin/sh
# A sentinel rewrites its own configuration. The first start creates the file in the volume.
set -eu

if [ ! -s /data/sentinel.conf ]; then
  cat >/data/sentinel.conf.new <<CONF
port 26379
dir /data
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $(hostname)
sentinel monitor limits redis 6379 2
sentinel auth-user limits sentinel
sentinel auth-pass limits "$(sed 's/[\\"]/\\&/g' /run/secrets/password)"
sentinel down-after-milliseconds limits 3000
sentinel failover-timeout limits 15000
CONF
  mv /data/sentinel.conf.new /data/sentinel.conf
fi
exec redis-server /data/sentinel.conf --sentinel
