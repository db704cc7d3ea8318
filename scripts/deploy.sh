#!/usr/bin/env bash
# Runs the stack of compose.yaml on one host, and replaces the service without losing a request.
#
#   deploy.sh deploy [IMAGE]     preflight, backup, migrations, the service, the rest of the stack
#   deploy.sh update [IMAGE]     the service only: preflight, backup, migrations, one replica after another, monitor
#   deploy.sh rollback           the previous image, in the same way; the schema stays (an older release works with it)
#   deploy.sh preflight [IMAGE]  the checks only
#   deploy.sh backup | restore NAME [--force] | status | logs [SERVICE] | stop
#
# IMAGE is NAME:TAG or NAME@sha256:…; without it the script builds the sources and tags them with the commit. Settings
# are in .env (or the one file in COMPOSE_ENV_FILES): API_REPLICAS (2), DEPLOY_WATCH_SECONDS (300; 0: no monitor),
# DEPLOY_MIN_FREE_GB (5). The state is in .deploy/. After an interrupted deploy or update, repeat the command to
# continue (IMAGE is optional), or use rollback.
# Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 refused by the preflight, 4 rolled back, 5 another run is active.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh
# shellcheck source=scripts/secret.sh
. scripts/secret.sh
# shellcheck source=scripts/deploy-preflight.sh
. scripts/deploy-preflight.sh

STATE=${DEPLOY_STATE:-.deploy}
ENV_FILE=${COMPOSE_ENV_FILES:-.env}
# If compose cannot read them, the preflight says why.
read_settings SECRETS_DIR TLS_DIR API_REPLICAS DEPLOY_WATCH_SECONDS DEPLOY_MIN_FREE_GB DEPLOY_SERVICES CORS_ORIGINS || true
SECRETS_DIR=$(setting SECRETS_DIR secrets)
TLS_DIR=$(setting TLS_DIR nginx/ssl)
API_REPLICAS=$(setting API_REPLICAS 2)
DEPLOY_WATCH_SECONDS=$(setting DEPLOY_WATCH_SECONDS 300)
DEPLOY_MIN_FREE_GB=$(setting DEPLOY_MIN_FREE_GB 5)
# The services that `deploy` starts; empty: all. Example: DEPLOY_SERVICES="nginx backup".
read -ra SERVICES <<<"$(setting DEPLOY_SERVICES '')"

current() { cat "$STATE/current" 2>/dev/null || true; }
# The target image of an interrupted run.
next() { cat "$STATE/next" 2>/dev/null || true; }

# --- the service, one replica after another -------------------------------------------------------------------

running() { docker compose ps -q "$@" 2>/dev/null; }

# old IMAGE: prints the replicas that run another image.
old() {
  local id wanted
  wanted=$(docker image inspect -f '{{.Id}}' "$1")
  for id in $(running api); do
    [ "$(docker inspect -f '{{.Image}}' "$id")" = "$wanted" ] || echo "$id"
  done
}

# scale COUNT: waits until COUNT replicas are healthy. If not, prints the state of each.
scale() {
  local output
  output=$(docker compose up -d --no-deps --no-recreate --no-build --scale "api=$1" --wait --wait-timeout 120 api 2>&1) &&
    return
  say "not $1 healthy replicas: $(tail -n 1 <<<"$output")"
  # shellcheck disable=SC2046 # ids
  docker inspect -f '{{.Name}} {{.State.Status}}{{with .State.Health}} {{.Status}}{{range .Log}}
    {{.End.UTC.Format "15:04:05"}} exit code {{.ExitCode}}: {{.Output}}{{end}}{{end}}' $(docker compose ps -aq api) >&2 || true
  return 1
}

# roll IMAGE: stops an old replica only after a new one is healthy. The old one still responds until nginx no longer
# sends it requests.
roll() {
  local id count
  export API_IMAGE=$1
  while id=$(old "$1" | sed -n 1p) && [ -n "$id" ]; do
    count=$(running api | wc -l)
    if [ "$count" -le "$API_REPLICAS" ]; then
      count=$((count + 1))
      scale "$count" || return 1
      sleep 3 # nginx queries Docker's DNS every 2 s
    fi
    say "replacing ${id:0:12}"
    docker stop "$id" >/dev/null
    docker rm "$id" >/dev/null
  done
  scale "$API_REPLICAS" || return 1
  [ -z "$(old "$1")" ]
}

watch_release() {
  [ "$DEPLOY_WATCH_SECONDS" -gt 0 ] || return 0
  say "watching for $DEPLOY_WATCH_SECONDS s"
  docker compose exec -T api /nodejs/bin/node dist/cli/monitor.js --url http://api:9090 --seconds "$DEPLOY_WATCH_SECONDS" >&2
}

replace() { # IMAGE
  local before
  before=$(current)
  [ -n "$before" ] || before=$(docker inspect -f '{{.Config.Image}}' "$(running api | sed -n 1p)" 2>/dev/null || true)
  echo "$1" >"$STATE/next"
  say "migrations of $1"
  API_IMAGE=$1 docker compose run --rm --no-deps -T migrate >&2 || give_up 'the migrations failed; the service was not touched'
  say "replacing $(running api | wc -l) replica(s) by $1"
  if roll "$1" && watch_release; then
    [ "$before" = "$1" ] || echo "$before" >"$STATE/previous"
    mv "$STATE/next" "$STATE/current"
    say "running $1"
    return
  fi
  if [ -z "$before" ] || [ "$before" = "$1" ]; then give_up "$1 failed, and there is no previous image"; fi
  say "$1 failed: rolling back to $before"
  abandon_unhealthy
  roll "$before" || die "the rollback failed: deploy.sh status"
  rm -f "$STATE/next"
  say "rolled back to $before"
  exit 4
}

# give_up WHY: fails, and leaves no run to continue.
give_up() {
  rm -f "$STATE/next"
  die "$@"
}

# Remove unhealthy replicas of a failed release first: they serve no requests.
abandon_unhealthy() {
  local id
  for id in $(docker compose ps -aq api); do
    [ "$(docker inspect -f '{{.State.Health.Status}}' "$id" 2>/dev/null)" = healthy ] || docker rm -f "$id" >/dev/null
  done
}

backup_first() {
  [ -n "$(running postgres)" ] || return 0
  say 'backup'
  docker compose up -d --no-deps --no-recreate backup >/dev/null 2>&1 || die 'the service backup does not start'
  docker compose exec -T backup /scripts/backup.sh run >&2 || die 'the backup failed, so nothing is released'
}

# image_or_build [IMAGE]: IMAGE, else the target of an interrupted run, else a build of the sources.
image_or_build() {
  if [ -n "${1:-}" ]; then
    docker image inspect "$1" >/dev/null 2>&1 || docker pull -q "$1" >/dev/null || die "there is no image $1"
    echo "$1"
    return
  fi
  if [ -s "$STATE/next" ]; then
    say "continuing the interrupted run to $(next); name an image to use another one"
    next
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
    say 'another run is active'
    exit 5
  }
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  deploy | update | preflight) [ $# -le 1 ] || usage ;;
  rollback | backup | status | stop) [ $# -eq 0 ] || usage ;;
esac
case $command in
  preflight) preflight "${1:-$(current)}" && say 'no problems found' ;;
  deploy)
    locked
    preflight "${1:-}"
    image=$(image_or_build "${1:-}")
    backup_first
    [ -z "$(running api)" ] || replace "$image"
    echo "$image" >"$STATE/next"
    API_IMAGE=$image docker compose up -d --no-recreate --no-build --wait --scale "api=$API_REPLICAS" "${SERVICES[@]}" ||
      give_up 'the stack does not start: deploy.sh status, deploy.sh logs'
    mv "$STATE/next" "$STATE/current"
    say "deployed $image" ;;
  update)
    locked
    preflight "${1:-}"
    [ -n "$(running api)" ] || die 'the stack does not run yet: deploy.sh deploy'
    image=$(image_or_build "${1:-}")
    backup_first
    replace "$image" ;;
  rollback)
    locked
    # After an interrupted update, the image to return to is still the current one.
    back=previous
    [ ! -s "$STATE/next" ] || back=current
    [ -s "$STATE/$back" ] || die 'there is no previous release'
    image=$(cat "$STATE/$back")
    say "rolling back to $image"
    [ "$back" = previous ] || abandon_unhealthy
    roll "$image" || die 'the service does not start: deploy.sh logs api'
    if [ "$back" = current ]; then
      rm "$STATE/next"
    else
      current >"$STATE/previous"
      echo "$image" >"$STATE/current"
    fi
    say "running $image" ;;
  backup) docker compose exec -T backup /scripts/backup.sh run || die 'no backup was made' ;;
  restore) API_IMAGE=$(current) exec scripts/restore.sh "$@" ;;
  status)
    printf 'image %s, previous %s\n' "$(current)" "$(cat "$STATE/previous" 2>/dev/null || echo none)"
    [ ! -s "$STATE/next" ] || printf 'interrupted on the way to %s: update continues, rollback returns\n' "$(next)"
    docker compose ps -a --format 'table {{.Name}}\t{{.Image}}\t{{.Status}}' ;;
  logs) docker compose logs --tail 200 --follow "$@" ;;
  stop) docker compose stop ;;
  *) usage ;;
esac
