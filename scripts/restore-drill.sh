#!/usr/bin/env bash
# Restores the newest backup into a scratch database, compares it, and prints what a loss of the database would cost now.
# It changes nothing. Run it where backups are made, and after each change of the host:
#   docker compose exec -T backup /scripts/restore-drill.sh
#
# RPO is the age of that backup: later changes would be lost. RTO is the duration of the restore. restore.sh also stops
# and starts the service, and prints its own duration. Goals: RPO_GOAL_SECONDS (86400), RTO_GOAL_SECONDS (3600).
# The environment is that of backup.sh.
# Exit codes: 0 both goals met, 1 a goal missed or the restore failed, 2 wrong arguments, 3 a backup is running.
set -Eeuo pipefail
scripts=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=scripts/common.sh
. "$scripts/common.sh"
[ $# -eq 0 ] || usage

export BACKUP_DIR=${BACKUP_DIR:-/backups}
for goal in RPO_GOAL_SECONDS=86400 RTO_GOAL_SECONDS=3600; do
  name=${goal%=*}
  printf -v "$name" %s "${!name:-${goal#*=}}"
  [[ ${!name} =~ ^[0-9]+$ ]] || die "$name=${!name} must be a number of seconds"
done

name=$("$scripts/backup.sh" list | tail -n 1)
[ -n "$name" ] || die "there is no backup in $BACKUP_DIR: a loss would be total"
file=$BACKUP_DIR/$name.dump
[ -e "$file" ] || file=$file.enc

taken=$(date -u -d "${name:0:8} ${name:9:2}:${name:11:2}:${name:13:2}" +%s)
rpo=$(($(date +%s) - taken))
began=${EPOCHREALTIME/[.,]/}
"$scripts/backup.sh" check "$file"
ms=$(((${EPOCHREALTIME/[.,]/} - began) / 1000))

status=0
told() { # NAME MILLISECONDS GOAL
  local verdict=met
  [ "$2" -le $((1000 * $3)) ] || { verdict=MISSED; status=1; }
  printf '%s %d.%03d s, goal %d s: %s\n' "$1" $(($2 / 1000)) $(($2 % 1000)) "$3" "$verdict"
}
printf 'backup %s\n' "$name"
told RTO "$ms" "$RTO_GOAL_SECONDS"
told RPO $((1000 * rpo)) "$RPO_GOAL_SECONDS"
exit "$status"
