# shellcheck shell=sh
# Sourced by sh and bash: reads a secret from a file, by the same rules as the service.

# secret_in FILE: prints its one line without byte order mark and surrounding white space. Refuses invalid content.
secret_in() (
  export LC_ALL=C
  refuse() {
    echo "error: the secret in $file $*" >&2
    exit 1
  }
  file=$1
  value=$(tr -d '\000' <"$file" 2>/dev/null) || refuse 'cannot be read'
  if [ "$(tr -d '\000' <"$file" | wc -c)" -ne "$(wc -c <"$file")" ] || ! iconv -f UTF-8 -t UTF-8 "$file" >/dev/null 2>&1; then
    refuse 'is not UTF-8 text; save it as UTF-8 (not UTF-16), without NUL characters'
  fi
  mark=$(printf '\357\273\277')
  blank=$(printf ' \t\r\n.')
  blank=${blank%.}
  value=${value#"$mark"}
  value=${value#"${value%%[!"$blank"]*}"}
  value=${value%"${value##*[!"$blank"]}"}
  case $value in
    '') refuse 'is empty; write the secret, or remove the file' ;;
    *"$(printf '\r')"* | *'
'*) refuse 'has more than one line; write one' ;;
    *[[:cntrl:]]* | *"$mark"*) refuse 'contains a control character, perhaps from copying; type it again' ;;
  esac
  printf '%s\n' "$value"
)
