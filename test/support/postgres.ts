import { createHash, randomBytes } from 'node:crypto';
import { chmodSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Client } from 'pg';
import type { Test } from 'tap';
import { openEmbeddedPostgres, type EmbeddedPostgres } from '../../tools/dev/embedded-postgres.ts';
import { migrateUp } from '../../src/cli/migrate.ts';
import { makeDataFolder } from './folders.ts';
import { forgetProcess, registerProcess, signalTree } from './processes.ts';
import { repositoryDir, useServers } from './servers.ts';

/** The URL of a database of its own with every migration applied; gone, connections and all, when `t` ends. */
export async function createDatabase(t: Test): Promise<string> {
  const { postgresUrl } = await useServers();
  template ??= ensureTemplate(postgresUrl);
  return cloneDatabase(t, postgresUrl, await template);
}

let template: Promise<string> | undefined;

/** The same without migrations. */
export async function createEmptyDatabase(t: Test): Promise<string> {
  const { postgresUrl } = await useServers();
  return cloneDatabase(t, postgresUrl, 'template1');
}

async function cloneDatabase(t: Test, serverUrl: string, from: string): Promise<string> {
  const name = `test_${randomBytes(6).toString('hex')}`;
  await withClient(serverUrl, (client) => client.query(`create database ${name} template ${from}`));
  t.teardown(() =>
    withClient(serverUrl, (client) => client.query(`drop database if exists ${name} with (force)`)),
  );
  return urlOf(serverUrl, name);
}

/** Made once for each state of the migrations: a clone takes 30 ms, migrating anew much longer. */
async function ensureTemplate(serverUrl: string): Promise<string> {
  const name = `template_${hashMigrations()}`;
  await withClient(serverUrl, async (client) => {
    // Test files start at the same moment; one makes it, the others wait.
    await client.query(`select pg_advisory_lock(hashtext('hardpoint test template'))`);
    const found = await client.query('select from pg_database where datname = $1 and datistemplate', [name]);
    if (found.rowCount === 1) return;
    await client.query(`drop database if exists ${name} with (force)`);
    await client.query(`create database ${name}`);
    await migrate(urlOf(serverUrl, name));
    await client.query(`alter database ${name} with is_template true allow_connections false`);
  });
  return name;
}

async function migrate(databaseUrl: string): Promise<void> {
  await migrateUp({ databaseUrl });
}

function hashMigrations(): string {
  const hash = createHash('sha256');
  const folder = join(repositoryDir, 'migrations');
  const files = readdirSync(folder)
    .toSorted()
    .map((name) => join(folder, name));
  for (const file of [...files, join(repositoryDir, 'src/cli/migrate.ts')]) hash.update(readFileSync(file));
  return hash.digest('hex').slice(0, 16);
}

export interface PostgresServer {
  /** A migrated database, as superuser. The same before and after a restart. */
  url: string;
  port: number;
  stop(): Promise<void>;
  /** After stop() or kill(), on the same port and data. */
  start(): Promise<void>;
  /** Connections stay open and nothing answers, until thaw(). */
  freeze(): void;
  thaw(): void;
  /** A crash: every process of it at once. */
  kill(): void;
}

/** A cluster of its own, for tests that take it away; gone when `t` ends. */
export async function startPostgres(
  t: Test,
  options: { settings?: Record<string, string> } = {},
): Promise<PostgresServer> {
  await useServers();
  const dataDir = makeDataFolder('hardpoint-test-');
  chmodSync(dataDir, 0o755);
  const open = (port?: number): Promise<EmbeddedPostgres> =>
    openEmbeddedPostgres({ dataDir, say: (line) => t.comment(line), ...options, ...(port && { port }) });
  let server = await open();
  registerProcess(server.pid, 'postgres', dataDir);
  const { port } = server;
  const controls = {
    port,
    url: urlOf(server.url, 'hardpoint'),
    async stop() {
      signalTree(server.pid, 'SIGCONT');
      await server.stop();
      forgetProcess(server.pid);
    },
    async start() {
      server = await open(port);
      registerProcess(server.pid, 'postgres', dataDir);
    },
    freeze: () => signalTree(server.pid, 'SIGSTOP'),
    thaw: () => signalTree(server.pid, 'SIGCONT'),
    kill: () => signalTree(server.pid, 'SIGKILL'),
  };
  t.teardown(async () => {
    await controls.stop();
    rmSync(dataDir, { recursive: true, force: true });
  });
  await withClient(server.url, (client) => client.query('create database hardpoint'));
  await migrate(controls.url);
  return controls;
}

/** One statement or a few on a connection of their own. */
export async function withClient<T>(url: string, work: (client: Client) => Promise<T>): Promise<T> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

function urlOf(serverUrl: string, database: string): string {
  const url = new URL(serverUrl);
  url.pathname = `/${database}`;
  return url.href;
}
