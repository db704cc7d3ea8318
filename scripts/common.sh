# shellcheck shell=bash
# Sourced by the other scripts: how they speak. Whatever goes wrong is said on stderr.

say() { TZ=UTC printf '%(%FT%TZ)T %s\n' -1 "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

# The comment at the head of the script, up to its first `set`.
usage() {
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2
  exit 2
}

# setting NAME DEFAULT: from the environment, else from the file that compose reads, without its quotes.
setting() {
  local value=${!1:-} file=${COMPOSE_ENV_FILES:-.env}
  [ -n "$value" ] || [ ! -f "$file" ] || value=$(sed -n "s/^$1=//p" "$file" | tail -n 1 | tr -d "\"'")
  printf '%s\n' "${value:-$2}"
}
