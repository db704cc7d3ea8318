#!/bin/sh
# Prints the users of both Redis servers, from the passwords in $redis, $monitor, $replication and $sentinel. The
# service may use only its own keys and channels, and no dangerous command. Without a password only `ping` works.
set -eu
: "${redis:?}" "${monitor:?}" "${replication:?}" "${sentinel:?}"
sha() { printf '%s' "$1" | openssl dgst -sha256 -r | cut -d' ' -f1; }
cat <<USERS
user default on nopass sanitize-payload resetkeys resetchannels -@all +ping
user app on #$(sha "$redis") sanitize-payload ~hp:* &hp:* +@read +@write +eval +evalsha +script|load +script|exists -function -fcall -fcall_ro +@pubsub +@connection +@transaction -@dangerous -@admin +info +time
user monitor on #$(sha "$monitor") sanitize-payload resetkeys resetchannels -@all +ping +client|setname +info +slowlog|get +slowlog|len +latency|latest +latency|histogram
user replication on #$(sha "$replication") sanitize-payload resetkeys resetchannels -@all +ping +psync +replconf
user sentinel on #$(sha "$sentinel") sanitize-payload resetkeys allchannels -@all +ping +info +role +multi +exec +publish +subscribe +slaveof +replicaof +config|rewrite +client|setname +client|kill +script|kill +hello +auth
USERS
