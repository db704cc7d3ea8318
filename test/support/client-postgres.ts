import { randomBytes } from 'node:crypto';
import { chmodSync, chownSync, existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Test } from 'tap';
import { findAccount } from '../../tools/dev/postgres-programs.ts';
import { findFreePort } from '../../tools/dev/free-port.ts';
import { migrateUp } from '../../src/cli/migrate.ts';
import { runProgram } from '../../tools/dev/processes.ts';
import { makeDataFolder } from './folders.ts';
import { forgetProcess, registerProcess, signalTree } from './processes.ts';
import { repositoryDir } from './servers.ts';
import { findTool, skipLoudly } from './tools.ts';

const PROGRAMS = ['initdb', 'pg_ctl', 'pg_dump', 'pg_restore', 'psql'];

export interface ClientPostgres {
  /** Where its programs are, the client's too. */
  bin: string;
  port: number;
  /** Of the socket, through which `postgres` needs no password. */
  socketDir: string;
  /** The same of each role. */
  password: string;
}

/**
 * A server as compose.yaml has it, with its roles and a migrated database `hardpoint`, of the version of the
 * client programs: pg_dump refuses a newer server, as the embedded one may be. Gone when `t` ends.
 * @returns undefined after `t` was skipped loudly
 */
export async function startClientPostgres(
  t: Test,
  password = randomBytes(18).toString('hex'),
): Promise<ClientPostgres | undefined> {
  const bin = findPrograms();
  if (bin === undefined) {
    const required = process.env.REQUIRE_TOOLS === '1';
    skipLoudly(t, 'needs a Postgres server with its client: install postgresql', required);
    return undefined;
  }
  const folder = makeDataFolder('hardpoint-test-');
  const account = findAccount(folder);
  if (account) chownSync(folder, account.uid, account.gid);
  chmodSync(folder, 0o711);
  const run = (program: string, args: string[]) =>
    runProgram(join(bin, program), args, { ...account, cwd: folder });
  const cluster = join(folder, 'cluster');
  const auth = ['-U', 'postgres', '--auth-local=trust', '--auth-host=scram-sha-256'];
  await run('initdb', ['-D', cluster, '-E', 'UTF8', '--no-locale', '--no-sync', ...auth]);
  const port = await findFreePort();
  const settings = [
    `port = ${port}`,
    `listen_addresses = '127.0.0.1'`,
    `unix_socket_directories = '${folder}'`,
    `shared_preload_libraries = 'pg_stat_statements'`,
    'fsync = off',
    'full_page_writes = off',
    // In its folder, which is removed: it is killed, and would leave other kinds behind.
    'dynamic_shared_memory_type = mmap',
  ];
  writeFileSync(join(cluster, 'postgresql.auto.conf'), settings.join('\n'));
  await run('pg_ctl', ['start', '-D', cluster, '-l', join(folder, 'log'), '-w', '-s']);
  const pid = Number.parseInt(readFileSync(join(cluster, 'postmaster.pid'), 'utf8'), 10);
  registerProcess(pid, 'postgres', folder);
  t.teardown(() => {
    signalTree(pid, 'SIGKILL');
    forgetProcess(pid);
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  });

  const psql = (database: string, args: string[]) =>
    run('psql', ['-XqAt', '-h', folder, '-p', String(port), '-U', 'postgres', '-d', database, ...args]);
  const init = join(repositoryDir, 'docker/postgres/init');
  const roles = readFileSync(join(init, '10-roles.sql'), 'utf8');
  for (const [, secret = ''] of roles.matchAll(/\/run\/secrets\/(\w+)/g))
    writeFileSync(join(folder, secret), password);
  writeFileSync(join(folder, 'roles.sql'), roles.replaceAll('/run/secrets', folder));
  await psql('postgres', ['-f', join(folder, 'roles.sql'), '-c', 'create database hardpoint']);
  writeFileSync(join(folder, 'database.sql'), readFileSync(join(init, '20-database.sql')));
  await psql('hardpoint', ['-f', join(folder, 'database.sql')]);
  const login = `migrator:${encodeURIComponent(password)}`;
  await migrateUp({ databaseUrl: `postgres://${login}@127.0.0.1:${port}/hardpoint` });
  return { bin, port, socketDir: folder, password };
}

/** On PATH, or where Debian keeps what its wrappers on PATH call. */
function findPrograms(): string | undefined {
  const debian = '/usr/lib/postgresql';
  const versions = existsSync(debian) ? readdirSync(debian).map(Number) : [];
  const folders = versions.toSorted((a, b) => b - a).map((version) => join(debian, String(version), 'bin'));
  const onPath = findTool('initdb');
  if (onPath) folders.unshift(dirname(onPath));
  return folders.find((folder) => PROGRAMS.every((name) => existsSync(join(folder, name))));
}
