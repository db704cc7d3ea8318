#!/usr/bin/env bash
# Runs the stack of compose.yaml on one host, and replaces the service without losing a request.
#
#   deploy.sh deploy [IMAGE]   everything: preflight, backup, migrations, the whole stack, the service last
#   deploy.sh update [IMAGE]   the service alone: preflight, backup, migrations, one replica after another, watch
#   deploy.sh rollback         the image before, the same way; the schema stays (an older release tolerates it)
#   deploy.sh preflight        only the checks
#   deploy.sh backup | restore NAME [--force] | status | logs [SERVICE] | stop
#
# IMAGE is NAME:TAG or NAME@sha256:…; without it the sources here are built and tagged with the commit. Values
# come from .env: API_REPLICAS (2), DEPLOY_WATCH_SECONDS (300), DEPLOY_MIN_FREE_GB (5). What is being done is
# kept in .deploy/, so an interrupted run is finished by running it again.
# Exit codes: 0 done, 1 failed, 2 wrong use, 3 refused by the preflight, 4 rolled back, 5 another run is going on.
set -Eeuo pipefail
cd "$(dirname "$0")/.."

STATE=${DEPLOY_STATE:-.deploy}

# setting NAME DEFAULT: from the environment, else from .env, which only compose reads whole.
setting() {
  local value=${!1:-}
  [ -n "$value" ] || [ ! -f .env ] || value=$(sed -n "s/^$1=//p" .env | tail -n 1)
  printf '%s\n' "${value:-$2}"
}
API_REPLICAS=$(setting API_REPLICAS 2)
WATCH_SECONDS=$(setting DEPLOY_WATCH_SECONDS 300)
MIN_FREE_GB=$(setting DEPLOY_MIN_FREE_GB 5)
# What `deploy` brings up, all unless told: DEPLOY_SERVICES="nginx backup".
read -ra SERVICES <<<"$(setting DEPLOY_SERVICES '')"

say() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}
usage() {
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2
  exit 2
}
current() { cat "$STATE/current" 2>/dev/null || true; }

# --- preflight: every problem at once -------------------------------------------------------------------------

preflight() { # IMAGE
  local problems=() file mode value free
  problem() { problems+=("$1"); }
  docker compose version >/dev/null 2>&1 || problem 'docker compose is missing, or the engine does not answer'
  docker compose config -q 2>/dev/null || problem 'compose.yaml and .env do not fit: docker compose config'
  case $1 in
    *@sha256:*) ;;
    *:latest | *:stable | *:main) problem "the tag of $1 moves: name a version, or a digest" ;;
    *:*) ;;
    *) problem "$1 has no tag: name a version, or a digest" ;;
  esac
  if [ -f .env ]; then
    mode=$(stat -c %a .env)
    [ $((8#$mode & 077)) -eq 0 ] || problem ".env can be read by others (mode $mode): chmod 600 .env"
    if value=$(grep -niE '^[A-Z_]+=.*(change.?me|placeholder|your[_-]|<[^>]+>|example\.com|xxxx)' .env | cut -d= -f1); then
      problem "placeholders in .env: ${value//$'\n'/, }"
    fi
    if grep -qE '^CORS_ORIGINS=.*\*' .env; then problem 'CORS_ORIGINS=* lets every site read answers: name the origins'; fi
  fi
  for file in secrets/*; do
    [ -f "$file" ] || continue
    mode=$(stat -c %a "$file")
    [ $((8#$mode & 077)) -eq 0 ] || problem "$file can be read by others (mode $mode): chmod 600 $file"
    case $file in *_url | *_key | *.md) continue ;; esac
    value=$(tr -d '\r\n' <"$file")
    [ ${#value} -ge 24 ] || problem "$file holds ${#value} characters, 24 are the least: openssl rand -hex 32 > $file"
    if grep -qiE 'change.?me|placeholder|password|secret|example' <<<"$value"; then problem "$file holds a placeholder"; fi
  done
  if [ -s nginx/ssl/fullchain.pem ]; then
    openssl x509 -in nginx/ssl/fullchain.pem -noout -checkend $((14 * 86400)) >/dev/null 2>&1 ||
      problem 'nginx/ssl/fullchain.pem is no certificate, or ends within 14 days'
  fi
  free=$(($(stat -f -c '%a * %S / 1073741824' .)))
  [ "$free" -ge "$MIN_FREE_GB" ] || problem "$free GB are free on this disk, $MIN_FREE_GB are the least (DEPLOY_MIN_FREE_GB)"
  [ ${#problems[@]} -gt 0 ] || return 0
  say "refused, ${#problems[@]} problem(s):"
  printf '  - %s\n' "${problems[@]}" >&2
  exit 3
}

# --- the service, one replica after another -------------------------------------------------------------------

running() { docker compose ps -q "$@" 2>/dev/null; }

# old IMAGE: the replicas that run something else.
old() {
  local id wanted
  wanted=$(docker image inspect -f '{{.Id}}' "$1")
  for id in $(running api); do
    [ "$(docker inspect -f '{{.Image}}' "$id")" = "$wanted" ] || echo "$id"
  done
}

# roll IMAGE: a new replica is healthy before an old one is told to stop. The old one goes on answering while
# nginx learns that it leaves.
roll() {
  local id count
  export API_IMAGE=$1
  while id=$(old "$1" | head -n 1) && [ -n "$id" ]; do
    count=$(running api | wc -l)
    if [ "$count" -le "$API_REPLICAS" ]; then
      count=$((count + 1))
      docker compose up -d --no-deps --no-recreate --no-build --scale "api=$count" --wait --wait-timeout 120 api >/dev/null 2>&1 ||
        return 1
      sleep 3 # nginx asks Docker's DNS every 2 s
    fi
    say "replacing ${id:0:12}"
    docker stop "$id" >/dev/null
    docker rm "$id" >/dev/null
  done
  docker compose up -d --no-deps --no-recreate --no-build --scale "api=$API_REPLICAS" --wait --wait-timeout 120 api >/dev/null 2>&1
}

watch_release() {
  say "watching for $WATCH_SECONDS s"
  docker compose exec -T api /nodejs/bin/node dist/commands/monitor.js --url http://api:9090 --seconds "$WATCH_SECONDS" >&2
}

replace() { # IMAGE
  local before
  before=$(current)
  [ -n "$before" ] || before=$(docker inspect -f '{{.Config.Image}}' "$(running api | head -n 1)" 2>/dev/null || true)
  echo "$1" >"$STATE/next"
  say "migrations of $1"
  API_IMAGE=$1 docker compose run --rm --no-deps -T migrate >&2 || die 'the migrations failed; the service was not touched'
  say "replacing $(running api | wc -l) replica(s) by $1"
  if roll "$1" && watch_release; then
    [ "$before" = "$1" ] || echo "$before" >"$STATE/previous"
    mv "$STATE/next" "$STATE/current"
    say "running $1"
    return
  fi
  if [ -z "$before" ] || [ "$before" = "$1" ]; then die "$1 does not hold, and there is nothing to go back to"; fi
  say "$1 does not hold: back to $before"
  abandon_unhealthy
  roll "$before" || die "going back failed: deploy.sh status"
  rm -f "$STATE/next"
  say "rolled back to $before"
  exit 4
}

# Of a release that does not even start, what is not healthy goes first: it serves nobody.
abandon_unhealthy() {
  local id
  for id in $(docker compose ps -aq api); do
    [ "$(docker inspect -f '{{.State.Health.Status}}' "$id" 2>/dev/null)" = healthy ] || docker rm -f "$id" >/dev/null
  done
}

backup_first() {
  [ -n "$(running postgres)" ] || return 0
  say 'backup'
  docker compose up -d --no-deps --no-recreate backup >/dev/null 2>&1
  docker compose exec -T backup /scripts/backup.sh run >&2 || die 'no release without a backup that was restored'
}

image_or_build() { # [IMAGE]
  if [ -n "${1:-}" ]; then
    docker image inspect "$1" >/dev/null 2>&1 || docker pull -q "$1" >/dev/null || die "there is no image $1"
    echo "$1"
    return
  fi
  local revision
  revision=$(git describe --always --dirty 2>/dev/null || date -u +%Y%m%d%H%M%S)
  say "building hardpoint:$revision"
  docker build -q -f docker/Dockerfile -t "hardpoint:$revision" --build-arg "REVISION=$revision" . >/dev/null
  echo "hardpoint:$revision"
}

locked() {
  mkdir -p "$STATE"
  exec 8>"$STATE/lock"
  flock -n 8 || {
    say 'another run is going on'
    exit 5
  }
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  preflight) preflight "${1:-$(current || true)}" && say 'nothing stands in the way' ;;
  deploy)
    [ $# -le 1 ] || usage
    locked
    image=$(image_or_build "${1:-}")
    preflight "$image"
    backup_first
    if [ -n "$(running api)" ]; then
      replace "$image"
    else
      echo "$image" >"$STATE/current"
    fi
    API_IMAGE=$(current) docker compose up -d --no-recreate --no-build --wait --scale "api=$API_REPLICAS" "${SERVICES[@]}" ||
      die 'the stack does not come up: deploy.sh status, deploy.sh logs'
    say "deployed $(current)" ;;
  update)
    [ $# -le 1 ] || usage
    locked
    [ -n "$(running api)" ] || die 'nothing runs here yet: deploy.sh deploy'
    image=$(image_or_build "${1:-}")
    preflight "$image"
    backup_first
    replace "$image" ;;
  rollback)
    [ $# -eq 0 ] || usage
    locked
    [ -s "$STATE/previous" ] || die 'there is no release before this one'
    image=$(cat "$STATE/previous")
    say "back to $image"
    roll "$image" || die 'the service does not come up: deploy.sh logs api'
    current >"$STATE/previous"
    echo "$image" >"$STATE/current"
    say "running $image" ;;
  backup) docker compose exec -T backup /scripts/backup.sh run ;;
  restore) exec scripts/restore.sh "$@" ;;
  status)
    printf 'image %s, before it %s\n' "$(current)" "$(cat "$STATE/previous" 2>/dev/null || echo none)"
    docker compose ps -a --format 'table {{.Name}}\t{{.Image}}\t{{.Status}}' ;;
  logs) docker compose logs --tail 200 --follow "$@" ;;
  stop) docker compose stop ;;
  *) usage ;;
esac
