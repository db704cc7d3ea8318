#!/usr/bin/env bash
# Gets a certificate for SERVER_NAME (.env) from Let's Encrypt, with certbot in a container. nginx serves the challenge
# on port 80, so DNS of that name must point to this host and the stack must run.
#
#   certificates.sh obtain [--dry-run]   gets the first certificate and replaces the self-signed one
#   certificates.sh renew [--dry-run]    renews it if due, and reloads nginx if it is new; run it daily from cron
#
# Let's Encrypt sends mail to ACME_EMAIL (.env). All files are in TLS_DIR (nginx/ssl), which git ignores.
# Exit codes: 0 done or nothing new, 1 failed, 2 wrong arguments, 3 refused.
set -Eeuo pipefail
umask 077
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

read_settings CERTBOT_IMAGE SERVER_NAME ACME_EMAIL TLS_DIR ||
  die "docker compose is missing, or cannot read ${COMPOSE_ENV_FILES:-.env}: docker compose config -q"
IMAGE=$(setting CERTBOT_IMAGE certbot/certbot:v5.8.0)
NAME=$(setting SERVER_NAME '')
EMAIL=$(setting ACME_EMAIL '')
TLS_DIR=$(setting TLS_DIR nginx/ssl)

refuse() {
  say "refused: $*"
  exit 3
}

case "${1:-} ${2:-}" in
  'obtain ' | 'obtain --dry-run' | 'renew ' | 'renew --dry-run') [ $# -le 2 ] || usage ;;
  *) usage ;;
esac
[ -n "$NAME" ] || refuse 'no SERVER_NAME: set it in .env, such as SERVER_NAME=api.your-company.com'
[[ $NAME =~ ^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}$ ]] ||
  refuse "SERVER_NAME=$NAME is not a public name. Use a name such as api.your-company.com"
[ "$1" != obtain ] || [[ $EMAIL = ?*@?*.?* ]] || refuse 'no ACME_EMAIL: set it in .env; the authority sends mail to it'
[ "$1" != renew ] || [ -e "$TLS_DIR/letsencrypt/renewal/$NAME.conf" ] || refuse "there is no certificate for $NAME yet: $0 obtain"
[ -n "$(docker compose ps -q nginx 2>/dev/null)" ] || refuse 'nginx does not run: docker compose up --wait nginx'

sum() { cksum "$TLS_DIR/fullchain.pem" 2>/dev/null || true; }
before=$(sum)
ssl=$(realpath "$TLS_DIR")
mkdir -p "$ssl/letsencrypt" nginx/acme
chmod 0755 nginx/acme # nginx runs as another user and reads the challenge there
# shellcheck disable=SC2016 # certbot's shell expands it
hook='cp -L "$RENEWED_LINEAGE/fullchain.pem" "$RENEWED_LINEAGE/privkey.pem" /ssl/'
case $1 in
  obtain) order=(certonly -d "$NAME" --cert-name "$NAME" --email "$EMAIL" --agree-tos "${@:2}") ;;
  renew) order=(renew --cert-name "$NAME" --no-random-sleep-on-renew "${@:2}") ;;
esac
docker run --rm -v "$ssl:/ssl" -v "$PWD/nginx/acme:/var/www/acme" -v "$ssl/letsencrypt:/etc/letsencrypt" "$IMAGE" \
  "${order[@]}" --non-interactive --webroot -w /var/www/acme --deploy-hook "$hook" >&2 || die "certbot failed for $NAME"
[ "$(sum)" != "$before" ] || { say 'no new certificate; nginx was not reloaded'; exit; }
docker compose run --rm -T setup >&2
docker compose exec -T nginx nginx -t
docker compose exec -T nginx nginx -s reload
say "nginx serves a new certificate for $NAME"
