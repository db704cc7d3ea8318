#!/bin/sh
# Prints the users of both Redis servers, from the passwords in $redis and $monitor. The service may use its
# own keys and channels only, and nothing that is dangerous; without a password one may ask whether it lives.
set -eu
: "${redis:?}" "${monitor:?}"
sha() { printf '%s' "$1" | openssl dgst -sha256 -r | cut -d' ' -f1; }
cat <<USERS
user default on nopass sanitize-payload resetkeys resetchannels -@all +ping
user app on #$(sha "$redis") sanitize-payload ~hp:* &hp:* +@read +@write +@scripting +@pubsub +@connection +@transaction -@dangerous -@admin +info +time
user monitor on #$(sha "$monitor") sanitize-payload resetkeys resetchannels -@all +ping +client|setname +info +slowlog|get +slowlog|len +latency|latest +latency|histogram
USERS
