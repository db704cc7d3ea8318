# shellcheck shell=bash
# Sourced by the other scripts: messages on stderr, usage, settings.

say() { TZ=UTC printf '%(%FT%TZ)T %s\n' -1 "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

# Prints the comment at the top of the script, up to its first `set`.
usage() {
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2
  exit 2
}

declare -A SETTINGS=()

# read_settings NAME…: lets docker compose read them from the environment and from .env or COMPOSE_ENV_FILES. A parser
# of our own would differ in blanks, `export`, comments and quotes. Fails if compose fails.
read_settings() {
  local name value text status=0
  text=$({
    printf 'services: {}\nx-settings:\n'
    # shellcheck disable=SC2016 # compose expands it
    for name in "$@"; do printf '  %s: "${%s-}"\n' "$name" "$name"; done
  } | docker compose -f - config --format json 2>/dev/null) || status=1
  for name in "$@"; do
    value=$(sed -n "s/^ *\"$name\": \"\(.*\)\",\{0,1\}$/\1/p" <<<"$text")
    # Undo the escapes of JSON, and the dollars that compose doubles.
    value=${value//\\\"/\\x22}
    printf -v "SETTINGS[$name]" %b "${value//\$\$/\$}"
    [ "$status" -eq 0 ] || SETTINGS[$name]=${!name:-}
  done
  return "$status"
}

# setting NAME DEFAULT: prints a setting that was read. Empty counts as unset.
setting() { printf '%s\n' "${SETTINGS[$1]:-$2}"; }
