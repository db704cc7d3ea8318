#!/usr/bin/env bash
# Replaces the database by a backup. Restores into a new database, compares it with the facts of the backup, then swaps
# the names of both databases in one transaction. If a step fails, the database is unchanged.
#
#   restore.sh NAME [--force]    NAME is one of `restore.sh --list`; --force replaces a database that has rows
#   restore.sh --list
#
# Stops the service, empties the cache, starts the service again and prints the duration. The old database stays under
# another name; drop it by hand. Exit codes: 0 done, 1 failed, 2 wrong arguments, 4 the database has rows.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

DATABASE=${POSTGRES_DB:-hardpoint}
NEW=${DATABASE}_restoring

postgres() { docker compose exec -T postgres "$@"; }
backup() { docker compose exec -T backup "$@"; }
sql() { postgres psql -XqAt -v ON_ERROR_STOP=1 -U postgres "$@"; }

case ${1:-} in
  --list)
    [ $# -eq 1 ] || usage
    backup /scripts/backup.sh list
    exit ;;
  '' | -*) usage ;;
esac
[ $# -eq 1 ] || { [ $# -eq 2 ] && [ "$2" = --force ]; } || usage
name=$1
[[ $name =~ ^[0-9]{8}T[0-9]{6}Z$ ]] || die "'$name' is not the name of a backup: see --list"
backup /scripts/backup.sh list | grep -x "$name" >/dev/null || die "there is no complete backup $name: see --list"
backup /scripts/backup.sh verify "$name" || die "$name cannot be used; nothing was changed"

# A killed run may have left the database closed. The audit log does not count as rows: each start of the service writes
# to it, also in a new database.
sql -d postgres -c "alter database $DATABASE allow_connections true" || die "there is no database $DATABASE, or postgres does not run"
rows=$(sql -d "$DATABASE" -c "select coalesce(sum(n), 0) from (select (xpath('/row/c/text()', query_to_xml(format(
  'select count(*) as c from %I.%I', schemaname, tablename), false, true, '')))[1]::text::bigint as n
  from pg_tables where schemaname = 'public' and tablename not like 'schema_migration%'
    and tablename <> 'audit_event') as tables") ||
  die "the database $DATABASE cannot be read"
if [ "$rows" -gt 0 ] && [ "${2:-}" != --force ]; then
  say "error: the database $DATABASE has $rows rows, which the restore would replace. Take a backup, then repeat with --force"
  exit 4
fi

began=$SECONDS
# Also the stopped ones: a killed run leaves them stopped.
replicas=$(docker compose ps -aq api | wc -l)
finish() {
  local status=$?
  trap - EXIT
  if [ "$status" -ne 0 ]; then
    sql -d postgres -c "drop database if exists $NEW with (force)" >/dev/null 2>&1 || true
    sql -d postgres -c "alter database $DATABASE allow_connections true" >/dev/null 2>&1 || true
  fi
  if [ "$replicas" -gt 0 ]; then
    say 'starting the service'
    docker compose up -d --no-deps --no-recreate --wait --scale "api=$replicas" api >/dev/null 2>&1 || {
      say 'error: the service does not start: docker compose logs api'
      [ "$status" -ne 0 ] || status=1
    }
  fi
  case $status in
    0) say "done in $((SECONDS - began)) s; the old database is $OLD: drop it when you no longer need it" ;;
    *) [ -n "${swapped:-}" ] || say "error: not restored; nothing was changed in the database $DATABASE" ;;
  esac
  exit "$status"
}
trap finish EXIT
trap 'exit 1' INT TERM

say 'stopping the service'
docker compose stop api >/dev/null 2>&1
sql -d postgres -c "drop database if exists $NEW with (force)" -c "create database $NEW template template0"
postgres psql -Xq -U postgres -d "$NEW" -f /etc/postgresql/init/20-database.sql >/dev/null
say "restoring $name"
backup /scripts/backup.sh cat "$name" |
  postgres pg_restore -U postgres --exit-on-error --single-transaction --dbname="$NEW"
# Without its own stdin, `docker compose exec` in <(…) would read from the pipe what diff compares.
backup /scripts/backup.sh facts "$NEW" |
  diff <(backup cat "/backups/$name.facts" </dev/null) - >&2 || die "$name was not restored completely"

say "replacing $DATABASE"
# Another restore may have ended in the same second.
until
  OLD=${DATABASE}_before_$(date -u +%Y%m%d_%H%M%S)
  [ -z "$(sql -d postgres -c "select 1 from pg_database where datname = '$OLD'")" ]
do sleep 0.2; done
sql -d postgres <<SQL
alter database $DATABASE allow_connections false;
select pg_terminate_backend(pid) from pg_stat_activity where datname in ('$DATABASE', '$NEW');
begin;
alter database $DATABASE rename to $OLD;
alter database $NEW rename to $DATABASE;
commit;
SQL
swapped=yes
# The cached values are those of the old database. The cache has no disk, so a restart empties it.
docker compose restart redis-cache >/dev/null 2>&1 || true
