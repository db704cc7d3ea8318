import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * A `docker` that only remembers: containers of the service are files in $STANDIN/api that hold their image, each
 * call is a line of $STANDIN/log. It proves what deploy.sh decides, not what an engine does: `npm run check:stack`.
 * Names of images and files tell what goes wrong: an image `…sick` never gets healthy, `…slow` trips the watch,
 * `…broken` has migrations that fail; `interrupt` ends deploy.sh when it stops a container, `wait` holds a backup.
 */
export const STANDIN_DOCKER = `
# Only reads; npm run check:stack and a test beside the real one prove what it reads.
if [ "$*" = 'compose -f - config --format json' ]; then
  [ ! -e "$STANDIN/no-compose" ] || exit 1
  while read -r name _; do
    name=\${name%:}
    line=$(grep "^$name=" "\${COMPOSE_ENV_FILES:-.env}" 2>/dev/null | tail -n 1 | tr -d "'" | tr -d '"')
    value=\${!name:-\${line#*=}}
    printf '    "%s": "%s",\\n' "$name" "$value"
  done < <(grep '^  ')
  exit
fi
echo "$*" >>"$STANDIN/log"
last=\${*: -1}
case "$*" in
  'compose version') [ ! -e "$STANDIN/no-compose" ] ;;
  info) [ ! -e "$STANDIN/no-engine" ] ;;
  'compose config -q') [ ! -e "$STANDIN/no-config" ] || { echo 'services.api: no such thing' >&2; exit 1; } ;;
  'compose config --images') printf '%s\\n' "\${API_IMAGE:-hardpoint:local}" postgres:18 ;;
  'compose ps -q api' | 'compose ps -aq api') ls "$STANDIN/api" ;;
  'compose ps -q nginx' | 'compose ps -q postgres') [ -e "$STANDIN/stopped" ] || echo one ;;
  'image inspect -f {{.Id}} '*) echo "sha256:$last" ;;
  'inspect -f {{.Image}} '*) echo "sha256:$(cat "$STANDIN/api/$last")" ;;
  'inspect -f {{.Config.Image}} '*) cat "$STANDIN/api/$last" ;;
  'inspect -f {{.State.Health.Status}} '*)
    case $(cat "$STANDIN/api/$last") in *sick) echo unhealthy ;; *) echo healthy ;; esac ;;
  'compose up '*'--scale api='*)
    wanted=$(sed 's/.*--scale api=\\([0-9]*\\).*/\\1/' <<<"$*")
    while [ "$(ls "$STANDIN/api" | wc -l)" -lt "$wanted" ]; do
      echo "$API_IMAGE" >"$STANDIN/api/$(date +%s%N)"
    done
    [[ $API_IMAGE != *sick ]] || { echo "container $(ls "$STANDIN/api" | tail -n 1) is unhealthy" >&2; exit 1; } ;;
  'inspect -f {{.Name}} '*) echo '/api-3 running unhealthy exit code 1: http://127.0.0.1 answered 503' ;;
  'stop '*) [ ! -e "$STANDIN/interrupt" ] || { rm "$STANDIN/interrupt"; kill -TERM $PPID; } ;;
  'rm '*) rm "$STANDIN/api/$last" ;;
  'compose run '*migrate) [[ $API_IMAGE != *broken ]] ;;
  'compose exec -T api '*monitor.js*) ! grep -q 'slow$' "$STANDIN"/api/* || exit 2 ;;
  'compose exec -T backup '*)
    [ ! -e "$STANDIN/no-backup" ] || exit 1
    [ ! -e "$STANDIN/wait" ] || { touch "$STANDIN/waiting"; until [ ! -e "$STANDIN/wait" ]; do /bin/sleep 0.02; done; } ;;
  'run --rm '*certbot*) [ ! -e "$STANDIN/due" ] || date +%s%N >"$TLS_DIR/fullchain.pem" ;;
esac
`;

export interface Standin {
  folder: string;
  /** The image of each replica, sorted. */
  images(): string[];
  /** What it was told, a line a call. */
  calls(): string;
  flag(name: string): void;
  clear(): void;
}

/** The state of the stand-in, with these replicas. */
export function openStandin(parent: string, images: string[] = []): Standin {
  const folder = join(parent, 'standin');
  mkdirSync(join(folder, 'api'), { recursive: true });
  images.forEach((image, index) => writeFileSync(join(folder, 'api', `${index}`), `${image}\n`));
  const log = join(folder, 'log');
  const clear = () => writeFileSync(log, '');
  clear();
  return {
    folder,
    images: () =>
      readdirSync(join(folder, 'api'))
        .map((name) => readFileSync(join(folder, 'api', name), 'utf8').trim())
        .toSorted(),
    calls: () => readFileSync(log, 'utf8'),
    flag: (name) => writeFileSync(join(folder, name), ''),
    clear,
  };
}
