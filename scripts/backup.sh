#!/usr/bin/env bash
# Backs up the database. A dump counts as a backup only after it was restored into a scratch database and compared.
#
#   backup.sh run               one backup now: dump, restore and compare, keep, delete old backups, copy
#   backup.sh schedule          one backup every day at BACKUP_AT (UTC); the compose service runs this
#   backup.sh check FILE        restores FILE into a scratch database and compares it with its facts
#   backup.sh verify NAME       checks the checksum of NAME, and that it can be decrypted
#   backup.sh cat NAME          verifies NAME and writes its dump to stdout, in the format of pg_restore
#   backup.sh facts DATABASE    prints the schema version and the rows of each table
#   backup.sh list              lists all backups, newest last
#   backup.sh thin [--dry-run]  deletes backups beyond the retention; never the newest one
#
# Connects as PGUSER to PGDATABASE on PGHOST, with the password in PGPASSWORD or PASSWORD_FILE. Writes to
# BACKUP_DIR: NAME.dump (or NAME.dump.enc), NAME.facts (schema version and rows of each table), NAME.sha256.
# Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 another backup is running.
set -Eeuo pipefail
umask 077
# shellcheck source=scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=scripts/secret.sh
. "$(dirname "${BASH_SOURCE[0]}")/secret.sh"

BACKUP_DIR=${BACKUP_DIR:-/backups}
BACKUP_AT=${BACKUP_AT:-02:00}
BACKUP_KEEP_DAILY=${BACKUP_KEEP_DAILY:-7}
BACKUP_KEEP_WEEKLY=${BACKUP_KEEP_WEEKLY:-4}
BACKUP_KEEP_MONTHLY=${BACKUP_KEEP_MONTHLY:-12}
# If this file exists, the backup is encrypted with AES-256. Without it, protect the dump like the database.
BACKUP_PASSPHRASE_FILE=${BACKUP_PASSPHRASE_FILE:-/run/secrets/backup_passphrase}
# Runs with the backup's files as arguments. If it fails, the backup fails.
BACKUP_COPY_COMMAND=${BACKUP_COPY_COMMAND:-}
METRICS_DIR=${METRICS_DIR:-}
PGDATABASE=${PGDATABASE:-hardpoint}
export PGDATABASE

for name in BACKUP_KEEP_DAILY BACKUP_KEEP_WEEKLY BACKUP_KEEP_MONTHLY; do
  [[ ${!name} =~ ^[0-9]+$ ]] || die "$name=${!name} must be a whole number"
done

query() { psql -XqAt -v ON_ERROR_STOP=1 "$@"; }

# facts DATABASE: one line for the schema version and one line per table with its rows, in a fixed order.
FACTS_SQL="
select 'schema ' || coalesce(max(name), 'none') from schema_migration;
select format('select %L || count(*) from %I.%I', schemaname || '.' || tablename || ' ', schemaname, tablename)
  from pg_tables where schemaname not in ('pg_catalog', 'information_schema') order by 1 \\gexec
"
facts() { query -d "$1" <<<"$FACTS_SQL"; }

cipher() { # openssl itself would keep a byte order mark and blanks
  local passphrase
  passphrase=$(secret_in "$BACKUP_PASSPHRASE_FILE") || return 1
  openssl enc -aes-256-cbc -pbkdf2 -iter 600000 -pass file:<(printf '%s\n' "$passphrase") "$@"
}
seal() { if [ -e "$BACKUP_PASSPHRASE_FILE" ]; then cipher -salt; else cat; fi; }

# dump FILE FACTS: writes both from one snapshot. With encryption no plain text reaches the disk.
dump() {
  local snapshot line extensions
  # Statement statistics belong to the server, and their extension to the superuser.
  mapfile -t extensions < <(query <<<"select format('--extension=%I', extname) from pg_extension
    where extname <> 'pg_stat_statements'")
  [ ${#extensions[@]} -gt 0 ] || die "cannot read the database $PGDATABASE"
  coproc SESSION { query; }
  local session=$SESSION_PID in=${SESSION[1]} out=${SESSION[0]}
  printf '%s\n' 'set idle_in_transaction_session_timeout = 0;' \
    'begin isolation level repeatable read read only;' 'select pg_export_snapshot();' >&"$in"
  read -r snapshot <&"$out" || die "cannot read the database $PGDATABASE"
  printf '%s\n\\echo end\n' "$FACTS_SQL" >&"$in"
  while read -r line <&"$out" && [ "$line" != end ]; do printf '%s\n' "$line"; done >"$2"
  pg_dump --format=custom --snapshot="$snapshot" "${extensions[@]}" | seal >"$1" ||
    die 'the dump failed; no backup was written'
  printf 'commit;\n\\q\n' >&"$in"
  wait "$session" || die 'the session that held the snapshot failed'
  [ -s "$2" ] || die 'the database returned no facts'
}

# whole FILE: verifies the checksums of FILE and its facts.
whole() {
  local name
  name=$(basename "${1%.enc}" .dump)
  [ -s "$1" ] || die "there is no backup $1"
  (cd "$(dirname "$1")" && sha256sum --quiet -c "$name.sha256" >&2) ||
    die "$1 is damaged: its checksum is wrong. Use another one (backup.sh list)"
}

# decryptable FILE: verifies the passphrase. Every dump begins with PGDMP.
decryptable() {
  [[ $1 = *.enc ]] || return 0
  [ -s "$BACKUP_PASSPHRASE_FILE" ] ||
    die "$1 is encrypted, and BACKUP_PASSPHRASE_FILE=$BACKUP_PASSPHRASE_FILE holds no passphrase"
  (set +o pipefail; cipher -d -in "$1" 2>/dev/null | head -c 5 | grep -aq PGDMP) ||
    die "$1 was not encrypted with the passphrase in $BACKUP_PASSPHRASE_FILE"
}

open_dump() { # FILE: writes the plain dump to stdout
  case $1 in *.enc) cipher -d -in "$1" ;; *) cat "$1" ;; esac
}

# drop DATABASE: ends the sessions of a killed run first. Not with `force`: this role may not end autovacuum. A plain
# drop makes Postgres stop autovacuum itself.
drop() {
  query -d postgres -c "select pg_terminate_backend(pid, 5000) from pg_stat_activity
    where datname = '$1' and usename = current_user" >/dev/null
  query -d postgres -c 'set client_min_messages = error' -c "drop database if exists \"$1\""
}

# check FILE FACTS: restores FILE into a scratch database, compares it, and drops the database.
check() {
  local scratch=${PGDATABASE}_restore_test status=0
  drop "$scratch"
  query -d postgres -c "create database \"$scratch\" template template0"
  {
    open_dump "$1" | pg_restore --exit-on-error --no-owner --no-privileges --dbname="$scratch" &&
      facts "$scratch" | diff "$2" - >&2
  } || status=$?
  drop "$scratch"
  [ "$status" -eq 0 ] || decryptable "$1"
  [ "$status" -eq 0 ] || die "$1 does not count: it cannot be restored, or its content differs from the database"
}

# One at a time: two runs would share the scratch database and delete each other's files.
lock() {
  mkdir -p "$BACKUP_DIR"
  exec 9>"$BACKUP_DIR/.lock"
  flock -n 9 || { say 'another backup is running'; exit 3; }
}

run() {
  local from=$SECONDS name dump partial files bytes
  lock
  trap 'rm -f "$BACKUP_DIR"/.partial-* "${PASSWORD_FILE:+$PGPASSFILE}"' EXIT
  rm -f "$BACKUP_DIR"/.partial-*
  [ ! -e "$BACKUP_PASSPHRASE_FILE" ] || secret_in "$BACKUP_PASSPHRASE_FILE" >/dev/null || exit 1
  name=$(date -u +%Y%m%dT%H%M%SZ)
  dump=$name.dump
  [ ! -e "$BACKUP_PASSPHRASE_FILE" ] || dump=$name.dump.enc
  partial=$BACKUP_DIR/.partial-
  dump "$partial$dump" "$partial$name.facts"
  check "$partial$dump" "$partial$name.facts"
  sync -f "$partial$dump"
  files=("$BACKUP_DIR/$dump" "$BACKUP_DIR/$name.facts" "$BACKUP_DIR/$name.sha256")
  mv "$partial$name.facts" "${files[1]}"
  mv "$partial$dump" "${files[0]}"
  # The checksum comes last: without it there is no backup.
  (cd "$BACKUP_DIR" && sha256sum "$dump" "$name.facts" >"$partial$name.sha256")
  mv "$partial$name.sha256" "${files[2]}"
  thin
  # shellcheck disable=SC2086 # a command with arguments
  [ -z "$BACKUP_COPY_COMMAND" ] || $BACKUP_COPY_COMMAND "${files[@]}" ||
    die "the backup $name is good, but its copy failed: $BACKUP_COPY_COMMAND"
  bytes=$(stat -c %s "${files[0]}")
  metrics $((SECONDS - from)) "$bytes"
  say "backup $name: $bytes bytes, restored and compared, $((SECONDS - from)) s"
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

good() { # prints the names of all complete backups, oldest first
  local sum
  for sum in "$BACKUP_DIR"/????????T??????Z.sha256; do
    sum=${sum##*/}
    [ "$sum" = '????????T??????Z.sha256' ] || printf '%s\n' "${sum%.sha256}"
  done
}

# thin [--dry-run]: keeps the last backup of each of the newest days, weeks and months that have one, and always the
# newest. It counts backups and not calendar days: if none was made for a month, none is deleted.
thin() {
  local names name week keep=newest old=()
  local -A days=() weeks=() months=()
  names=$(good | sort -r)
  while read -r name week; do
    local day=${name:0:8} month=${name:0:6}
    [ -n "${days[$day]:-}" ] || [ ${#days[@]} -ge "$BACKUP_KEEP_DAILY" ] || { days[$day]=1; keep=daily; }
    [ -n "${weeks[$week]:-}" ] || [ ${#weeks[@]} -ge "$BACKUP_KEEP_WEEKLY" ] || { weeks[$week]=1; keep=weekly; }
    [ -n "${months[$month]:-}" ] || [ ${#months[@]} -ge "$BACKUP_KEEP_MONTHLY" ] || { months[$month]=1; keep=monthly; }
    [ -n "$keep" ] || { say "too old: $name"; old+=("$BACKUP_DIR/$name"); }
    keep=''
  done < <(paste -d ' ' <(printf '%s\n' "$names") <(cut -c 1-8 <<<"$names" | date -u -f - +%G-%V))
  [ ${#old[@]} -gt 0 ] && [ "${1:-}" != --dry-run ] || return 0
  # Checksums first: a backup that is half deleted no longer counts.
  rm -f "${old[@]/%/.sha256}"
  rm -f "${old[@]/%/.dump}" "${old[@]/%/.dump.enc}" "${old[@]/%/.facts}"
}

# No command substitution once the trap is set: bash 5.2 fails on the trap if a signal arrives during one.
schedule() {
  local at now next text
  at=$(date -u -d "today $BACKUP_AT" +%s 2>/dev/null) || die "BACKUP_AT=$BACKUP_AT must be a time such as 02:00"
  at=$((at % 86400))
  trap 'exit 0' TERM INT
  while true; do
    printf -v now '%(%s)T' -1
    # The next time of day; in UTC all days have the same length.
    next=$((now + 86400 - (now - at) % 86400))
    TZ=UTC printf -v text '%(%FT%TZ)T' "$next"
    say "next backup at $text"
    sleep $((next - now)) &
    wait $!
    "$0" run || say "backup failed with exit code $?: see above"
  done
}

# In a password file, because every user who may list processes can read an environment. Each run writes its own file,
# so a changed password takes effect in the next run.
if [ -n "${PASSWORD_FILE:-}" ] && [ "${1:-}" != schedule ]; then
  password=$(secret_in "$PASSWORD_FILE")
  PGPASSFILE=$(mktemp)
  trap 'rm -f "$PGPASSFILE"' EXIT
  printf '*:*:*:*:%s\n' "$(printf %s "$password" | sed 's/[\\:]/\\&/g')" >"$PGPASSFILE"
  unset password
  export PGPASSFILE
  unset PGPASSWORD
fi

case ${1:-} in
  run) [ $# -eq 1 ] || usage; run ;;
  schedule) [ $# -eq 1 ] || usage; schedule ;;
  check)
    [ $# -eq 2 ] || usage
    whole "$2"
    lock
    base=${2%.enc}
    check "$2" "${base%.dump}.facts"
    say "$2 was restored and compared" ;;
  verify | cat)
    [ $# -eq 2 ] || usage
    file=$BACKUP_DIR/$2.dump
    [ -s "$file" ] || file=$file.enc
    whole "$file"
    if [ "$1" = verify ]; then decryptable "$file"; else open_dump "$file"; fi ;;
  facts) [ $# -eq 2 ] || usage; facts "$2" ;;
  list) [ $# -eq 1 ] || usage; good ;;
  thin) [ $# -eq 1 ] || { [ $# -eq 2 ] && [ "$2" = --dry-run ]; } || usage; thin "${2:-}" ;;
  *) usage ;;
esac
