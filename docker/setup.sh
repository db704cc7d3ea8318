#!/bin/sh
# Runs once before all other services of compose. Writes each secret where only its service can read it. A secret
# comes from ./secrets/NAME. If that file does not exist, this script creates the secret and keeps it in the volume,
# so `docker compose up` works without preparation. It never changes an existing secret.
set -eu
umask 077

given=/given # ./secrets of the host, read-only
store=/store # the volume, one folder per service
tls=/tls     # ./nginx/ssl of the host
made=$store/made # names of what this run creates
: >"$made"
. /scripts/secret.sh

# secret NAME: prints its value; creates it if it is missing.
secret() {
  mkdir -p "$store/all"
  file=$store/all/$1
  if [ -e "$given/$1" ]; then
    secret_in "$given/$1" >"$file.new" || exit 1
    mv "$file.new" "$file"
  elif [ ! -s "$file" ]; then
    openssl rand -hex 32 >"$file.new"
    mv "$file.new" "$file"
    echo "$1" >>"$made"
  fi
  tr -d '\n' <"$file"
}

# put FOLDER OWNER NAME VALUE: writes a file that only OWNER can read.
put() {
  mkdir -p "$store/$1"
  printf '%s\n' "$4" >"$store/$1/$3.new"
  chmod 0400 "$store/$1/$3.new"
  chown "$2" "$store/$1/$3.new"
  mv "$store/$1/$3.new" "$store/$1/$3"
  chmod 0500 "$store/$1"
  chown "$2" "$store/$1"
}

# pass_on FOLDER OWNER NAME [AS]: copies a secret that is never created here, if ./secrets has it.
pass_on() {
  [ -e "$given/$3" ] || return 0
  value=$(secret_in "$given/$3")
  put "$1" "$2" "${4:-$3}" "$value"
}

# Escapes a password for a URL, PgBouncer's list, .pgpass, and the quotes of redis.conf and JSON.
in_url() {
  case $1 in
    *[!A-Za-z0-9._~-]*) printf %s "$1" | od -An -v -tx1 | tr -d ' \n' | sed 's/../%&/g' ;;
    *) printf %s "$1" ;;
  esac
}
in_userlist() { printf %s "$1" | sed 's/"/""/g'; }
in_pgpass() { printf %s "$1" | sed 's/[\\:]/\\&/g'; }
in_quotes() { printf %s "$1" | sed 's/[\\"]/\\&/g'; }

superuser=$(secret postgres_password)
migrator=$(secret migrator_password)
app=$(secret app_password)
readonly=$(secret readonly_password)
backup=$(secret backup_password)
replicator=$(secret replicator_password)
monitor=$(secret monitor_password)
redis=$(secret redis_password)
redis_monitor=$(secret redis_monitor_password)
redis_replication=$(secret redis_replication_password)
sentinel=$(secret sentinel_password)
key_secret=$(secret api_key_secret)
secret_key=$(secret secret_key)
grafana=$(secret grafana_password)
app_in_url=$(in_url "$app")
migrator_in_url=$(in_url "$migrator")
redis_in_url=$(in_url "$redis")

put api 65532:65532 database_url "postgres://app:$app_in_url@postgres:5432/hardpoint"
put api 65532:65532 database_url_pgbouncer "postgres://app:$app_in_url@pgbouncer:6432/hardpoint"
put api 65532:65532 database_url_replica "postgres://app:$app_in_url@postgres-replica:5432/hardpoint"
put api 65532:65532 redis_url "redis://app:$redis_in_url@redis:6379"
put api 65532:65532 redis_url_sentinel "redis+sentinel://app:$redis_in_url@sentinel-1,sentinel-2,sentinel-3/limits"
put api 65532:65532 redis_cache_url "redis://app:$redis_in_url@redis-cache:6379"
put api 65532:65532 api_key_secret "$key_secret"
put api 65532:65532 secret_key "$secret_key"
for name in api_keys otel_exporter_otlp_headers; do
  pass_on api 65532:65532 "$name"
done
put migrate 65532:65532 database_url "postgres://migrator:$migrator_in_url@postgres:5432/hardpoint"
put postgres 999:999 superuser "$superuser"
put postgres 999:999 migrator "$migrator"
put postgres 999:999 app "$app"
put postgres 999:999 readonly "$readonly"
put postgres 999:999 backup "$backup"
put postgres 999:999 monitor "$monitor"
put postgres 999:999 replicator "$replicator"
put pgbouncer 65531:65531 userlist.txt "\"app\" \"$(in_userlist "$app")\""
put replica 999:999 pgpass "*:*:*:replicator:$(in_pgpass "$replicator")"
put backup 999:999 password "$backup"
# Never created here: if it were lost with this host, the copies of the backups elsewhere would be worthless.
pass_on backup 999:999 backup_passphrase passphrase
put redis 999:999 users.acl "$(
  redis="$redis" monitor="$redis_monitor" replication="$redis_replication" sentinel="$sentinel" sh /setup/redis-users.sh
)"
put redis 999:999 replication.conf "masteruser replication
masterauth \"$(in_quotes "$redis_replication")\""
put sentinel 999:999 password "$sentinel"
put postgres-exporter 65534:65534 password "$monitor"
quoted=\"$(in_quotes "$redis_monitor")\"
put redis-exporter 59000:59000 passwords.json \
  "{\"redis://monitor@redis:6379\":$quoted,\"redis://monitor@redis-cache:6379\":$quoted}"
put grafana 472:0 password "$grafana"
# The receivers of alerts (docs/alerting.md).
mkdir -p "$store/alertmanager"
for name in pagerduty_key slack_url heartbeat_url; do
  pass_on alertmanager 65534:65534 "$name"
done

chown 999:999 /owned/backups /owned/metrics
chmod 0755 /owned/metrics

if [ ! -s "$tls/fullchain.pem" ] || [ ! -s "$tls/privkey.pem" ]; then
  # A server certificate and no authority: who trusts it trusts these names only.
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 \
    -keyout "$tls/privkey.pem" -out "$tls/fullchain.pem" -config /dev/stdin 2>/dev/null <<REQUEST
[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = ${SERVER_NAME:-localhost}
[extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:${SERVER_NAME:-localhost}, DNS:localhost, IP:127.0.0.1
REQUEST
  # The owner of the folder must be able to read and replace them.
  chown "$(stat -c %u:%g "$tls")" "$tls/privkey.pem" "$tls/fullchain.pem"
  chmod 0644 "$tls/fullchain.pem"
  echo 'nginx/ssl/fullchain.pem (self-signed, for 90 days)' >>"$made"
fi
put nginx 101:101 fullchain.pem "$(cat "$tls/fullchain.pem")"
put nginx 101:101 privkey.pem "$(cat "$tls/privkey.pem")"
put nginx 101:101 server_name.conf "server_name ${SERVER_NAME:-localhost} nginx;"

if [ -s "$made" ]; then
  echo 'Created, because ./secrets and ./nginx/ssl do not have it:'
  sed 's/^/  /' "$made"
  echo 'Secrets are in the volume "secrets". To set one yourself, write it to ./secrets/NAME and run this again.'
fi
rm -f "$made"
