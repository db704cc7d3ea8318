// Goes with the example: src/features/orders
import { randomBytes } from 'node:crypto';
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, cpSync, createWriteStream, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { Pool } from 'pg';
import { runApiKey } from '../../src/cli/api-key.ts';
import { openEmbeddedPostgres, type EmbeddedPostgres } from '../../tools/dev/embedded-postgres.ts';
import { findFreePort } from '../../tools/dev/free-port.ts';
import { migrateUp } from '../../src/cli/migrate.ts';
import { ensureDatabase } from '../../tools/dev/database.ts';
import { answersOk, startProcess, type RunningProcess } from '../drill/processes.ts';
import { signalTree } from '../../test/support/processes.ts';
import { openTcpProxy, type TcpProxy } from '../../test/support/tcp-proxy.ts';

/** A server that the service reaches through `proxy` alone. */
export interface Server {
  proxy: TcpProxy;
  signal(name: NodeJS.Signals): void;
  kill(): Promise<void>;
  /** After a kill; also where the server restarts by itself. Resolves when it accepts connections. */
  start(): Promise<void>;
}

export interface ServiceProcess {
  url: string;
  /** Exit code or signal, undefined while it runs. */
  ended(): number | string | undefined;
}

export interface Environment {
  services: ServiceProcess[];
  postgres: Server & {
    /** Not through the proxy; as superuser. */
    url: string;
    admin: Pool;
    /** Small file systems of their own, where this machine lets us make them. */
    disks: { data: string; wal: string } | undefined;
  };
  redis: Server & { admin: Redis };
  tokens: string[];
}

/** Sizes in MB: what a cluster and a few thousand orders need, and not much more. */
const DISK_MB = { data: 400, wal: 160 };

/** Starts all on loopback; what was started is pushed to `closers` at once. */
export async function openEnvironment(options: {
  repositoryDir: string;
  redisProgram: string;
  closers: (() => unknown)[];
  say: (line: string) => void;
}): Promise<Environment> {
  const { repositoryDir, redisProgram, closers, say } = options;
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-chaos-'));
  closers.push(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }));
  // Postgres runs as another user when this runs as root.
  chmodSync(folder, 0o755);

  const postgres = await openPostgres(folder, closers, say);
  const redis = await openRedis(folder, redisProgram, closers);
  const databaseUrl = await ensureDatabase(postgres.adminUrl, 'hardpoint');
  await migrateUp({ databaseUrl });
  const admin = new Pool({
    connectionString: databaseUrl,
    max: 2,
    idleTimeoutMillis: 0,
    application_name: 'chaos',
  });
  admin.on('error', () => undefined);
  closers.push(() => admin.end());

  say('starting three processes of the service');
  const proxied = new URL(databaseUrl);
  proxied.port = String(postgres.proxy.port);
  const env = {
    API_HOST: '127.0.0.1',
    DATABASE_URL: proxied.href,
    REDIS_URL: `redis://127.0.0.1:${redis.proxy.port}`,
    EXPECTED_REPLICAS: '3',
    API_KEY_SECRET: randomBytes(36).toString('base64'),
    SECRET_KEY: randomBytes(36).toString('base64'),
    RATE_LIMIT_PER_MINUTE: '1000000',
    // What a small or busy machine does to it is not tried here.
    MAX_EVENT_LOOP_DELAY_MS: '0',
    LOG_LEVEL: 'warn',
  };
  const services: ServiceProcess[] = [];
  for (let index = 0; index < 3; index += 1)
    services.push(await openService(repositoryDir, join(folder, `service-${index}.log`), env, closers));

  const direct = { ...env, DATABASE_URL: databaseUrl };
  const tokens = await Promise.all(
    [1, 2, 3].map(async () => {
      const made = await runApiKey(['create', '--tenant', 'chaos', '--scopes', '*', '--json'], direct);
      return (JSON.parse(made) as { token: string }).token;
    }),
  );
  return { services, postgres: { ...postgres, url: databaseUrl, admin }, redis, tokens };
}

async function openService(
  cwd: string,
  logFile: string,
  env: Record<string, string>,
  closers: (() => unknown)[],
): Promise<ServiceProcess> {
  const [port, metricsPort] = [await findFreePort(), await findFreePort()];
  const own = { ...env, API_PORT: String(port), METRICS_PORT: String(metricsPort) };
  const child: ChildProcess = spawn(process.execPath, ['dist/main.js'], {
    cwd,
    env: { PATH: process.env.PATH, ...own },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const log = createWriteStream(logFile);
  child.stdout?.pipe(log, { end: false });
  child.stderr?.pipe(log, { end: false });
  closers.push(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  });
  const url = `http://127.0.0.1:${port}`;
  const endMs = performance.now() + 30_000;
  while (!(await answersOk(`${url}/health/ready`).catch(() => false)))
    if (performance.now() > endMs || child.exitCode !== null)
      throw new Error(`The service did not get ready; see ${logFile}`);
  return { url, ended: () => child.signalCode ?? child.exitCode ?? undefined };
}

async function openPostgres(folder: string, closers: (() => unknown)[], say: (line: string) => void) {
  say('starting Postgres');
  const disks = mountDisks(folder, closers, say);
  const dataDir = disks ? join(disks.data, 'postgres') : join(folder, 'postgres');
  const settings = { max_connections: '100', min_wal_size: '32MB', max_wal_size: '64MB' };
  let server: EmbeddedPostgres = await openEmbeddedPostgres({ dataDir, say, settings });
  if (disks) {
    await server.stop();
    moveWal(join(server.dataDir, 'cluster'), join(disks.wal, 'pg_wal'));
    server = await openEmbeddedPostgres({ dataDir, say, settings });
  }
  const { port, url: adminUrl } = server;
  closers.push(async () => {
    signalTree(server.pid, 'SIGCONT');
    await server.stop();
  });
  const proxy = await openTcpProxy(port);
  closers.push(() => proxy.close());
  return {
    proxy,
    disks,
    adminUrl,
    signal: (name: NodeJS.Signals) => signalTree(server.pid, name),
    kill: async () => signalTree(server.pid, 'SIGKILL'),
    start: async () => {
      server = await openEmbeddedPostgres({ dataDir, say: () => undefined, settings, port });
    },
  };
}

/** Undefined, and said, where this user may not mount. */
function mountDisks(folder: string, closers: (() => unknown)[], say: (line: string) => void) {
  const disks = { data: join(folder, 'data'), wal: join(folder, 'wal') };
  for (const name of ['data', 'wal'] as const) {
    mkdirSync(disks[name]);
    const options = ['-t', 'tmpfs', '-o', `size=${DISK_MB[name]}m,mode=0755`, 'tmpfs', disks[name]];
    const mounted = spawnSync('mount', options, { encoding: 'utf8' });
    if (mounted.status !== 0) {
      say(`SKIPPED: faults that fill a disk, as this user may not mount one (${mounted.stderr?.trim()})`);
      return undefined;
    }
    closers.push(() => spawnSync('umount', [disks[name]]));
  }
  return disks;
}

function moveWal(cluster: string, place: string): void {
  const wal = join(cluster, 'pg_wal');
  const owner = spawnSync('stat', ['-c', '%u:%g', wal], { encoding: 'utf8' }).stdout.trim();
  cpSync(wal, place, { recursive: true });
  spawnSync('chown', ['-R', owner, place]);
  chmodSync(place, 0o700);
  rmSync(wal, { recursive: true });
  symlinkSync(place, wal);
}

async function openRedis(folder: string, file: string, closers: (() => unknown)[]) {
  const port = await findFreePort();
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--dir', folder];
  const debug = ['--enable-debug-command', 'local'];
  let running: RunningProcess;
  const admin = new Redis({ port, lazyConnect: true, retryStrategy: () => 100 });
  admin.on('error', () => undefined);
  const start = async () => {
    running = await startProcess({
      file,
      args: [...args, ...debug],
      cwd: folder,
      env: { PATH: process.env.PATH },
      logFile: join(folder, 'redis.log'),
      ready: async () => (await admin.connect().catch(() => undefined), admin.status === 'ready'),
    });
  };
  await start();
  closers.push(() => {
    admin.disconnect();
    return running.kill();
  });
  const proxy = await openTcpProxy(port);
  closers.push(() => proxy.close());
  return {
    proxy,
    admin,
    signal: (name: NodeJS.Signals) => running.signal(name),
    kill: () => running.kill(),
    start,
  };
}
