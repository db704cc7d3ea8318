# shellcheck shell=bash
# Sourced by deploy.sh: checks before anything is changed. It reports all problems at once.

# Variables that compose.yaml does not pass on to the service. .env.example says what decides instead.
FIXED_BY_COMPOSE='API_HOST API_PORT METRICS_HOST METRICS_PORT TRUSTED_PROXIES ENFORCE_HTTPS API_KEY_SECRET SECRET_KEY
  DATABASE_URL DATABASE_URL_REPLICA DATABASE_MIGRATION_URL REDIS_URL REDIS_CACHE_URL DRAIN_DELAY_SECONDS
  SHUTDOWN_TIMEOUT_SECONDS'

PROBLEMS=()
problem() { PROBLEMS+=("$1"); }

# preflight [IMAGE]: returns, or exits with 3.
preflight() {
  check_settings
  check_engine "${1:-}"
  check_images "${1:-}"
  check_env_file
  check_secrets
  check_certificate
  check_disk
  [ ${#PROBLEMS[@]} -gt 0 ] || return 0
  say "refused, ${#PROBLEMS[@]} problem(s):"
  printf '  - %s\n' "${PROBLEMS[@]}" >&2
  exit 3
}

check_settings() {
  local name
  for name in API_REPLICAS DEPLOY_WATCH_SECONDS DEPLOY_MIN_FREE_GB; do
    [[ ${!name} =~ ^[0-9]+$ ]] || problem "$name=${!name} must be a whole number"
  done
  [ "$API_REPLICAS" != 0 ] || problem 'API_REPLICAS=0 must be 1 or more'
}

check_engine() { # IMAGE
  local reason
  if ! docker compose version >/dev/null 2>&1; then
    problem 'docker compose is missing: install Docker Engine with its compose plugin'
    return
  fi
  docker info >/dev/null 2>&1 ||
    problem 'the Docker engine does not respond: start it, or add this user to the group docker'
  reason=$(API_IMAGE=$1 docker compose config -q 2>&1) ||
    problem "docker compose refuses compose.yaml with $ENV_FILE: $(tail -n 1 <<<"$reason")"
}

# A tag that moves names another release tomorrow, so a rollback would be impossible.
check_images() { # IMAGE
  local image tag
  while read -r image; do
    tag=${image##*/}
    case $image in
      '' | *@sha256:*) continue ;;
    esac
    case $tag in
      *:latest | *:stable | *:main | *:master | *:edge | *:nightly | *:dev)
        problem "the tag of the image $image moves: name a version, or a digest" ;;
      *:*) ;;
      *) problem "the image $image has no tag: name a version, or a digest" ;;
    esac
  done < <({ printf '%s\n' "$1"; API_IMAGE=$1 docker compose config --images 2>/dev/null; } | sort -u)
}

private() { # FILE
  local mode
  mode=$(stat -c %a "$1")
  [ $((8#$mode & 077)) -eq 0 ] || problem "$1 can be read by others (mode $mode): chmod 600 $1"
}

check_env_file() {
  local names name without_effect
  if [ ! -f "$ENV_FILE" ]; then
    problem "there is no $ENV_FILE: cp .env.example $ENV_FILE, chmod 600 $ENV_FILE, and set your values"
    return
  fi
  private "$ENV_FILE"
  names=$(grep -iE '^[[:space:]]*(export[[:space:]]+)?[A-Z0-9_]+[[:space:]]*[=:].*(change.?me|placeholder|your[_-]|<[^>]+>|example\.(com|org)|xxxx)' "$ENV_FILE" |
    sed -E 's/^[[:space:]]*(export[[:space:]]+)?([A-Za-z0-9_]+).*/\2/') || true
  [ -z "$names" ] || problem "placeholders in $ENV_FILE, set real values: ${names//$'\n'/, }"
  # Only in the file: the shell may have the same variables for another purpose.
  # shellcheck disable=SC2086 # a list
  without_effect=$(
    unset $FIXED_BY_COMPOSE
    read_settings $FIXED_BY_COMPOSE || true
    for name in $FIXED_BY_COMPOSE; do [ -z "$(setting "$name" '')" ] || printf ' %s' "$name"; done
  )
  [ -z "$without_effect" ] ||
    problem "without effect in $ENV_FILE, because compose.yaml fixes them:$without_effect; .env.example says what to use instead"
  case $(setting CORS_ORIGINS '') in
    *'*'*) problem 'CORS_ORIGINS with * lets every site read responses: list the origins' ;;
  esac
}

# The same rules as in the service. No part of a value is shown.
check_secrets() {
  local file value why
  for file in "$SECRETS_DIR"/*; do
    [ -f "$file" ] || continue
    case $file in *.md) continue ;; esac
    private "$file"
    value=$(secret_in "$file" 2>&1) || { problem "${value#error: }"; continue; }
    # Issued by others, in their own formats.
    case $file in */pagerduty_key | */slack_url | */heartbeat_url | */otel_exporter_otlp_headers) continue ;; esac
    why=
    [ "$(fold -w 1 <<<"$value" | sort -u | wc -l)" -ge 10 ] || why='has fewer than 10 different characters'
    [ ${#value} -ge 32 ] || why="is shorter than 32 characters"
    if grep -qiE 'change.?me|placeholder|your[_-]|password|example' <<<"$value"; then why='is a placeholder'; fi
    [ -z "$why" ] || problem "the secret in $file $why: openssl rand -hex 32 > $file"
  done
}

check_certificate() {
  local chain=$TLS_DIR/fullchain.pem
  [ ! -f "$TLS_DIR/privkey.pem" ] || private "$TLS_DIR/privkey.pem"
  [ -e "$chain" ] || return 0 # the first start creates a self-signed one
  if ! openssl x509 -in "$chain" -noout >/dev/null 2>&1; then
    problem "$chain is not a certificate, or cannot be read by $(id -un)"
  elif ! openssl x509 -in "$chain" -noout -checkend $((14 * 86400)) >/dev/null 2>&1; then
    problem "$chain expires within 14 days ($(openssl x509 -in "$chain" -noout -enddate | cut -d= -f2)): scripts/certificates.sh renew"
  fi
}

check_disk() {
  local free
  free=$(($(stat -f -c '%a * %S / 1073741824' .)))
  [[ ! $DEPLOY_MIN_FREE_GB =~ ^[0-9]+$ ]] || [ "$free" -ge "$DEPLOY_MIN_FREE_GB" ] ||
    problem "$free GB are free on this disk, fewer than DEPLOY_MIN_FREE_GB=$DEPLOY_MIN_FREE_GB: docker image prune"
}
