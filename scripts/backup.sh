#!/usr/bin/env bash
# Backups of the database. A dump counts only after it was restored into a scratch database and found equal.
#
#   backup.sh run               one backup now: dump, check, restore and compare, keep, copy, thin out
#   backup.sh schedule          one every day at BACKUP_AT (UTC), for ever; what the compose service runs
#   backup.sh check FILE        restores FILE into a scratch database and compares it with what it says of itself
#   backup.sh cat NAME          the dump of NAME on stdout, as pg_restore reads it
#   backup.sh facts DATABASE    schema version and rows of each table
#   backup.sh list              what there is, newest last
#   backup.sh thin [--dry-run]  deletes what is older than the retention; never the last good one
#
# Connects as PGUSER to PGDATABASE on PGHOST, with the password in PGPASSWORD or PASSWORD_FILE. Writes to
# BACKUP_DIR: NAME.dump (or NAME.dump.enc), NAME.facts (schema version and rows of each table), NAME.sha256.
# Exit codes: 0 done, 1 failed, 2 wrong use, 3 another backup is running.
set -Eeuo pipefail
umask 077

BACKUP_DIR=${BACKUP_DIR:-/backups}
BACKUP_AT=${BACKUP_AT:-02:00}
BACKUP_KEEP_DAILY=${BACKUP_KEEP_DAILY:-7}
BACKUP_KEEP_WEEKLY=${BACKUP_KEEP_WEEKLY:-4}
BACKUP_KEEP_MONTHLY=${BACKUP_KEEP_MONTHLY:-12}
# Encrypts with AES-256 when this file exists. Without it the dump is as secret as the database.
BACKUP_PASSPHRASE_FILE=${BACKUP_PASSPHRASE_FILE:-/run/secrets/backup_passphrase}
# Run with the backup's files as arguments; its failure is the backup's.
BACKUP_COPY_COMMAND=${BACKUP_COPY_COMMAND:-}
METRICS_DIR=${METRICS_DIR:-}
PGDATABASE=${PGDATABASE:-hardpoint}
export PGDATABASE

say() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}
usage() {
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2
  exit 2
}

query() { psql -XqAt -v ON_ERROR_STOP=1 "$@"; }

# facts DATABASE: one line for the schema version, one for each table with its rows, in a fixed order.
FACTS_SQL="
select 'schema ' || coalesce(max(name), 'none') from schema_migration;
select format('select %L || count(*) from %I.%I', schemaname || '.' || tablename || ' ', schemaname, tablename)
  from pg_tables where schemaname not in ('pg_catalog', 'information_schema') order by 1 \\gexec
"
facts() { query -d "$1" <<<"$FACTS_SQL"; }

# dump NAME: NAME.dump[.enc] and NAME.facts, both of one snapshot.
dump() {
  local file=$BACKUP_DIR/.partial-$1 snapshot line
  coproc SESSION { query; }
  local session=$SESSION_PID in=${SESSION[1]} out=${SESSION[0]}
  printf '%s\n' 'set idle_in_transaction_session_timeout = 0;' \
    'begin isolation level repeatable read read only;' 'select pg_export_snapshot();' >&"$in"
  read -r snapshot <&"$out" || die 'cannot read the database'
  printf '%s\n\\echo end\n' "$FACTS_SQL" >&"$in"
  while read -r line <&"$out" && [ "$line" != end ]; do printf '%s\n' "$line"; done >"$file.facts"
  # Statistics of statements belong to the server, and the extension to its superuser.
  pg_dump --format=custom --snapshot="$snapshot" --exclude-extension=pg_stat_statements --file="$file.dump"
  printf 'commit;\n\\q\n' >&"$in"
  wait "$session" || die 'the session that held the snapshot failed'
  [ -s "$file.facts" ] || die 'the database told nothing of itself'
}

open_dump() { # FILE: the plain dump on stdout
  case $1 in
    *.enc) openssl enc -d -aes-256-cbc -pbkdf2 -iter 600000 -pass "file:$BACKUP_PASSPHRASE_FILE" -in "$1" ;;
    *) cat "$1" ;;
  esac
}

# check FILE FACTS: restores FILE into a database of its own and compares; that database never stays.
check() {
  local scratch status=0
  scratch=restore_test_$(date -u +%s)_$$
  query -d postgres -c "create database $scratch template template0"
  {
    open_dump "$1" | pg_restore --exit-on-error --no-owner --no-privileges --dbname="$scratch" &&
      facts "$scratch" | diff "$2" - >&2
  } || status=$?
  query -d postgres -c "drop database $scratch with (force)"
  [ "$status" -eq 0 ] || die "$1 cannot be restored, or holds something else than the database did"
}

run() {
  local from=$SECONDS name partial final files
  mkdir -p "$BACKUP_DIR"
  exec 9>"$BACKUP_DIR/.lock"
  flock -n 9 || { say 'another backup is running'; exit 3; }
  rm -f "$BACKUP_DIR"/.partial-*
  name=$(date -u +%Y%m%dT%H%M%SZ)
  partial=$BACKUP_DIR/.partial-$name
  dump "$name"
  final=$partial.dump
  if [ -s "$BACKUP_PASSPHRASE_FILE" ]; then
    openssl enc -aes-256-cbc -pbkdf2 -iter 600000 -salt -pass "file:$BACKUP_PASSPHRASE_FILE" -in "$final" -out "$final.enc"
    rm -f "$final"
    final=$final.enc
  fi
  check "$final" "$partial.facts"
  sync -f "$final"
  files=("$BACKUP_DIR/$name.${final#"$partial".}" "$BACKUP_DIR/$name.facts" "$BACKUP_DIR/$name.sha256")
  mv "$partial.facts" "${files[1]}"
  mv "$final" "${files[0]}"
  # The sum comes last: a backup without it is none.
  (cd "$BACKUP_DIR" && sha256sum "$(basename "${files[0]}")" "$name.facts" >"$partial.sha256")
  mv "$partial.sha256" "${files[2]}"
  [ -z "$BACKUP_COPY_COMMAND" ] || $BACKUP_COPY_COMMAND "${files[@]}" || die "the copy failed: $BACKUP_COPY_COMMAND"
  metrics $((SECONDS - from)) "$(stat -c %s "${files[0]}")"
  thin
  say "backup $name: $(stat -c %s "${files[0]}") bytes, restored and found equal, $((SECONDS - from)) s"
}

metrics() { # SECONDS BYTES
  [ -n "$METRICS_DIR" ] || return 0
  local now; now=$(date +%s)
  cat >"$METRICS_DIR/.backup.prom" <<METRICS
# HELP backup_last_success_timestamp_seconds When the last backup was taken and found good
# TYPE backup_last_success_timestamp_seconds gauge
backup_last_success_timestamp_seconds $now
# HELP backup_restore_test_last_success_timestamp_seconds When a backup was last restored and found equal
# TYPE backup_restore_test_last_success_timestamp_seconds gauge
backup_restore_test_last_success_timestamp_seconds $now
# HELP backup_duration_seconds Time of the last backup, restore test included
# TYPE backup_duration_seconds gauge
backup_duration_seconds $1
# HELP backup_size_bytes Size of the last backup
# TYPE backup_size_bytes gauge
backup_size_bytes $2
METRICS
  chmod 0644 "$METRICS_DIR/.backup.prom"
  mv "$METRICS_DIR/.backup.prom" "$METRICS_DIR/backup.prom"
}

good() { # the names of all whole backups, oldest first
  local sum
  for sum in "$BACKUP_DIR"/*.sha256; do
    if [ -e "$sum" ]; then basename "$sum" .sha256; fi
  done | sort
}

# thin [--dry-run]: of the newest days, weeks and months that have a backup the last one of each stays. Counted
# in backups, not from today: where none was made for a month, nothing goes.
thin() {
  local name day week month
  local -A days=() weeks=() months=()
  for name in $(good | sort -r); do
    day=${name:0:8}
    week=$(date -u -d "$day" +%G-%V)
    month=${name:0:6}
    local keep=''
    [ -n "${days[$day]:-}" ] || [ ${#days[@]} -ge "$BACKUP_KEEP_DAILY" ] || { days[$day]=1; keep=daily; }
    [ -n "${weeks[$week]:-}" ] || [ ${#weeks[@]} -ge "$BACKUP_KEEP_WEEKLY" ] || { weeks[$week]=1; keep=weekly; }
    [ -n "${months[$month]:-}" ] || [ ${#months[@]} -ge "$BACKUP_KEEP_MONTHLY" ] || { months[$month]=1; keep=monthly; }
    [ -z "$keep" ] || continue
    say "too old: $name"
    # The sum first: what is left half deleted is no backup.
    [ "${1:-}" = --dry-run ] || rm -f "$BACKUP_DIR/$name.sha256" "$BACKUP_DIR/$name".{dump,dump.enc,facts}
  done
}

schedule() {
  local now next
  while true; do
    now=$(date -u +%s)
    next=$(date -u -d "today $BACKUP_AT" +%s)
    [ "$next" -gt "$now" ] || next=$(date -u -d "tomorrow $BACKUP_AT" +%s)
    say "next backup at $(date -u -d "@$next" +%FT%TZ)"
    sleep $((next - now)) &
    wait $!
    "$0" run || say "backup failed with $?: see above"
  done
}

[ -z "${PASSWORD_FILE:-}" ] || PGPASSWORD=$(cat "$PASSWORD_FILE")
export PGPASSWORD=${PGPASSWORD:-}

case ${1:-} in
  run) [ $# -eq 1 ] || usage; run ;;
  schedule) [ $# -eq 1 ] || usage; trap 'exit 0' TERM INT; schedule ;;
  check)
    [ $# -eq 2 ] || usage
    [ -s "$2" ] || die "there is no backup $2"
    base=${2%.enc} && base=${base%.dump}
    (cd "$(dirname "$2")" && sha256sum --quiet -c "$(basename "$base").sha256") || die "$2 is not what was written"
    check "$2" "$base.facts"
    say "$2 was restored and found equal" ;;
  cat)
    [ $# -eq 2 ] || usage
    for file in "$BACKUP_DIR/$2".dump{,.enc}; do
      [ ! -s "$file" ] || { open_dump "$file"; exit; }
    done
    die "there is no backup $2" ;;
  facts) [ $# -eq 2 ] || usage; facts "$2" ;;
  list) good ;;
  thin) thin "${2:-}" ;;
  *) usage ;;
esac
