import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import type { ClientPostgres } from './client-postgres.ts';
import { withClient } from './postgres.ts';
import { pathWith, runScript, temporaryFolder } from './scripts.ts';
import { repositoryDir } from './servers.ts';

export const scripts = join(repositoryDir, 'scripts');

export interface World {
  env: Record<string, string>;
  backups: string;
  metricsFile: string;
  run(...args: string[]): ReturnType<typeof runScript>;
  /** The files of it, with and without a leading dot; the lock aside. */
  files(): string[];
}

/** A folder of backups of its own on the one server; `programs` stand in for those of their names. */
export function openWorld(
  t: Test,
  { bin, port, password }: ClientPostgres,
  programs: Record<string, string> = {},
  changes: Record<string, string> = {},
): World {
  const folder = temporaryFolder(t);
  const [backups, metrics] = [join(folder, 'backups'), join(folder, 'metrics')];
  mkdirSync(metrics);
  // As an editor on Windows leaves it.
  writeFileSync(join(folder, 'password'), `\uFEFF${password}\r\n`);
  const env = {
    PATH: pathWith(t, programs, `${bin}:${process.env.PATH}`),
    REAL: bin,
    PGHOST: '127.0.0.1',
    PGPORT: String(port),
    PGUSER: 'backup',
    PASSWORD_FILE: join(folder, 'password'),
    BACKUP_DIR: backups,
    METRICS_DIR: metrics,
    BACKUP_PASSPHRASE_FILE: join(folder, 'passphrase'),
    ...changes,
  };
  return {
    env,
    backups,
    metricsFile: join(metrics, 'backup.prom'),
    run: (...args) => runScript(t, join(scripts, 'backup.sh'), args, env),
    files: () => (existsSync(backups) ? readdirSync(backups).filter((name) => name !== '.lock') : []),
  };
}

/** The URL of a database, as the superuser. */
export const superuser = ({ port, socketDir }: ClientPostgres, database = 'hardpoint') =>
  `postgres://postgres@localhost:${port}/${database}?host=${socketDir}`;
/** Of its one backup. */
export const nameOf = ({ files }: World) =>
  files()
    .find((name) => name.endsWith('.sha256'))
    ?.slice(0, -7) ?? '';

export async function databases(postgres: ClientPostgres): Promise<string[]> {
  const { rows } = await withClient(superuser(postgres, 'postgres'), (client) =>
    client.query<{ datname: string }>('select datname from pg_database order by 1'),
  );
  return rows.map(({ datname }) => datname);
}

/** Writes new sums, as one who wrote the wrong thing in the first place would have. */
export function sumAgain({ backups }: World, name: string): void {
  const files = readdirSync(backups).filter((file) => file.startsWith(name) && !file.endsWith('.sha256'));
  const sums = execFileSync('sha256sum', files, { cwd: backups, encoding: 'utf8' });
  writeFileSync(join(backups, `${name}.sha256`), sums);
}

export function flipByte(file: string, share: number): void {
  const bytes = readFileSync(file);
  const at = Math.floor(bytes.length * share);
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  writeFileSync(file, bytes);
}

/**
 * Runs here what restore.sh has compose run in the containers of the database and of the backups, and writes
 * the rest down. FAULT: what goes wrong.
 */
export const LOCAL_DOCKER = `
echo "$*" >>"$DOCKER_LOG"
case "$*" in
  'compose ps -aq api') printf 'one\\ntwo\\n' ;;
  'compose up'*) [ "$FAULT" != start ] || exit 1 ;;
esac
[ "$1 $2 $3" = 'compose exec -T' ] || exit 0
service=$4
shift 4
args=("\${@//\\/etc\\/postgresql\\/init/$REPOSITORY/docker/postgres/init}")
args=("\${args[@]/#\\/scripts/$REPOSITORY/scripts}")
args=("\${args[@]/#\\/backups/$BACKUP_DIR}")
if [ "$service" = postgres ]; then
  export PGHOST=$SOCKET PGUSER=postgres
  unset PGPASSWORD PASSWORD_FILE
fi
case "$FAULT $*" in
  'cut '*'backup.sh cat '*) "\${args[@]}" | head -c 9000 ;;
  'rows '*'pg_restore '*) "\${args[@]}" && psql -q -d hardpoint_restoring -c 'delete from ledger where id = 1' ;;
  'swap psql '*'-d postgres') sed 's/^alter database hardpoint_restoring/alter database missing/' | "\${args[@]}" ;;
  *) exec "\${args[@]}" ;;
esac
`;
