import { randomBytes } from 'node:crypto';
import { existsSync, lchownSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { prepareBinaries, type PostgresBinaries } from './embedded-postgres-binaries.ts';
import { endLeftover, postmasterPid, stopServer } from './embedded-postgres-process.ts';
import { findFreePort } from './free-port.ts';

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
 * Starts a real Postgres from the binaries that npm installed; needs no Postgres, Docker or network. It
 * survives neither `stop()` nor the next `openEmbeddedPostgres` of the same folder: a server that a killed
 * parent left behind is stopped first, so one folder must have one owner at a time.
 * @throws Error with a message for the user when this machine or the data folder cannot be used.
 */
export async function openEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const binaries = await prepareBinaries(options.dataDir, options.say);
  const cluster = join(binaries.dataDir, 'cluster');
  await endLeftover(binaries, cluster);
  const password = existsSync(join(cluster, 'PG_VERSION'))
    ? readFileSync(join(binaries.dataDir, 'password'), 'utf8')
    : await initialise(binaries, cluster, options.say);
  refuseOtherVersion(binaries, cluster);

  const port = await start(binaries, cluster, options);
  const pid = postmasterPid(cluster);
  if (pid === undefined) throw new Error(`Postgres ended at once:\n${logOf(binaries)}`);
  return {
    url: `postgres://postgres:${password}@127.0.0.1:${port}/postgres`,
    port,
    dataDir: binaries.dataDir,
    pid,
    stop: () => stopServer(binaries, cluster, pid),
  };
}

/** Makes the cluster beside its place and moves it there, so that a killed initdb leaves nothing half made. */
async function initialise(binaries: PostgresBinaries, cluster: string, say: (line: string) => void) {
  say(`Preparing an embedded Postgres ${binaries.majorVersion} (first start, about 5 s)…`);
  const password = randomBytes(18).toString('hex');
  writeOwned(binaries, 'password', password);
  const draft = `${cluster}.new`;
  rmSync(draft, { recursive: true, force: true });
  rmSync(cluster, { recursive: true, force: true });
  // The builtin locale needs no locale of the operating system and sorts alike on every machine.
  const locale = ['--no-locale', '-E', 'UTF8', '--locale-provider=builtin', '--builtin-locale=C.UTF-8'];
  const access = ['-U', 'postgres', '-A', 'scram-sha-256', `--pwfile=${join(binaries.dataDir, 'password')}`];
  await binaries.run('initdb', ['-D', draft, ...locale, ...access, '--no-sync']);
  renameSync(draft, cluster);
  return password;
}

function refuseOtherVersion(binaries: PostgresBinaries, cluster: string): void {
  const made = readFileSync(join(cluster, 'PG_VERSION'), 'utf8').trim();
  if (made === binaries.majorVersion) return;
  throw new Error(
    `The data in ${binaries.dataDir} was made by Postgres ${made}, but Postgres ${binaries.majorVersion} is installed. ` +
      'Move that folder away (a new one is made at the next start), or set DATABASE_URL to a Postgres of your own.',
  );
}

/** Returns the port. Another program may take a free port before Postgres does, hence the further tries. */
async function start(binaries: PostgresBinaries, cluster: string, options: EmbeddedPostgresOptions) {
  for (let tries = 1; ; tries += 1) {
    const port = options.port ?? (await findFreePort());
    const settings = Object.entries({ ...SETTINGS, port: String(port), ...options.settings });
    const lines = settings.map(([name, value]) => `${name} = '${value.replaceAll("'", "''")}'\n`);
    // This file is read last, and at each start: what an earlier start was told does not linger.
    writeOwned(binaries, join('cluster', 'postgresql.auto.conf'), lines.join(''));
    rmSync(join(binaries.dataDir, 'server.log'), { force: true });
    try {
      // pg_ctl puts the server in a session of its own: a terminal's Ctrl-C is for its owner, not for it.
      const log = join(binaries.dataDir, 'server.log');
      await binaries.run('pg_ctl', ['start', '-D', cluster, '-l', log, '-w', '-s', '-t', '60']);
      return port;
    } catch (error) {
      const log = logOf(binaries);
      const portTaken = log.includes('could not bind') || log.includes('could not create any TCP/IP sockets');
      if (!portTaken || options.port !== undefined || tries === 3) {
        throw new Error(`Postgres did not start:\n${log}`, { cause: error });
      }
    }
  }
}

function writeOwned(binaries: PostgresBinaries, name: string, text: string): void {
  const file = join(binaries.dataDir, name);
  // As root we write into another user's folder: never through a symlink that he put there.
  rmSync(file, { force: true });
  writeFileSync(file, text, { mode: 0o600, flag: 'wx' });
  if (binaries.account) lchownSync(file, binaries.account.uid, binaries.account.gid);
}

function logOf(binaries: PostgresBinaries): string {
  const file = join(binaries.dataDir, 'server.log');
  return existsSync(file) ? readFileSync(file, 'utf8').slice(-2000).trim() : '(no log)';
}
