import { randomBytes } from 'node:crypto';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runApiKey } from '../../src/cli/api-key.ts';
import { openEmbeddedPostgres } from '../../tools/dev/embedded-postgres.ts';
import { findFreePort } from '../../tools/dev/free-port.ts';
import { migrateUp } from '../../src/cli/migrate.ts';
import { ensureDatabase } from '../../tools/dev/database.ts';
import { startLoad, type Load } from './load.ts';
import { answersOk, startProcess, type RunningProcess } from './processes.ts';
import { planMonitoring } from './monitoring.ts';
import type { DrillTools } from './tools.ts';
import { startAlertWatch, type AlertWatch } from './watch.ts';

/** One part of the world that can be taken away and given back. */
interface Part {
  stop(): Promise<void>;
  start(): Promise<void>;
}

export interface World {
  postgres: Part & { url: string };
  redis: Part;
  service: Part;
  load: Load;
  watch: AlertWatch;
  /** Whether the service answers, and has its Postgres and its Redis. */
  isWell(): Promise<boolean>;
  /** Before that nobody is told of anything. */
  startAlertmanager(): Promise<void>;
  /** A request that needs Postgres, with this key. */
  request(token: string): [url: string, init: RequestInit];
  /** A new key; `revoke` ends it. */
  createKey(...options: string[]): Promise<{ token: string; revoke(): Promise<void> }>;
}

/**
 * Starts everything on loopback: Postgres, Redis, the service, load, and Prometheus; Alertmanager later. What was
 * started is pushed to `closers` at once, so that it is ended as well when a later part fails.
 */
export async function buildWorld(
  repositoryDir: string,
  tools: DrillTools,
  closers: (() => unknown)[],
  say: (line: string) => void,
): Promise<World> {
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-drill-'));
  closers.push(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }));
  // Postgres runs as another user when the drill runs as root.
  chmodSync(folder, 0o755);
  const ports = await findFreePorts();
  const urlOf = (port: number) => `http://127.0.0.1:${port}`;

  async function openPart(start: () => Promise<RunningProcess>) {
    let running = await start();
    closers.push(() => running.kill());
    return {
      stop: () => running.kill(),
      start: async () => {
        running = await start();
      },
    };
  }
  const run = (name: string, file: string, args: string[], ready: () => Promise<boolean>, env = {}) =>
    startProcess({
      file,
      args,
      cwd: repositoryDir,
      env: { PATH: process.env.PATH, HOME: folder, ...env },
      logFile: join(folder, `${name}.log`),
      ready,
    });

  say('starting Postgres');
  const dataDir = join(folder, 'postgres');
  let server = await openEmbeddedPostgres({ dataDir, say });
  closers.push(() => server.stop());
  const databaseUrl = await ensureDatabase(server.url, 'hardpoint');
  await migrateUp({ databaseUrl });

  say('starting Redis');
  const redisArgs = ['--port', String(ports.redis), '--bind', '127.0.0.1', '--save', '', '--dir', folder];
  const redis = await openPart(() => run('redis', tools.redis, redisArgs, () => canConnect(ports.redis)));

  say('starting the service');
  const env = {
    API_HOST: '127.0.0.1',
    API_PORT: String(ports.api),
    METRICS_PORT: String(ports.metrics),
    DATABASE_URL: databaseUrl,
    REDIS_URL: `redis://127.0.0.1:${ports.redis}`,
    API_KEY_SECRET: randomBytes(36).toString('base64'),
    SECRET_KEY: randomBytes(36).toString('base64'),
    RATE_LIMIT_PER_MINUTE: '1000000',
    EXPECTED_REPLICAS: '1',
    CONNECTION_POOL_SIZE: '5',
    POOL_WAIT_TIMEOUT_MS: '1000',
    // What a small or busy machine does to it is not what is drilled.
    MAX_EVENT_LOOP_DELAY_MS: '0',
    LOG_LEVEL: 'warn',
  };
  const args = ['--import', import.meta.resolve('tsx'), join(repositoryDir, 'src/main.ts')];
  const service = await openPart(() =>
    run('service', process.execPath, args, () => answersOk(`${urlOf(ports.api)}/health/ready`), env),
  );
  const createKey = async (...options: string[]) => {
    const direct = { ...env, DATABASE_URL: databaseUrl };
    const made = await runApiKey(
      ['create', '--tenant', 'drill', '--scopes', '*', ...options, '--json'],
      direct,
    );
    const { id, token } = JSON.parse(made) as { id: string; token: string };
    return { token, revoke: async () => void (await runApiKey(['revoke', id], direct)) };
  };
  const request = (token: string): [string, RequestInit] => [
    `${urlOf(ports.api)}/v1/audit-events?limit=1`,
    { headers: { authorization: `Bearer ${token}` } },
  ];

  const { token } = await createKey();
  const load = startLoad(40, () => request(token));
  closers.push(load.stop);

  say('starting Prometheus');
  const watch = await startAlertWatch(urlOf(ports.prometheus));
  closers.push(() => watch.close());
  const monitoring = { tools, folder, ports, webhookUrl: watch.webhookUrl };
  const plans = planMonitoring(join(repositoryDir, 'prometheus'), monitoring);
  const startPlanned = async (name: keyof typeof plans) => {
    const { file, args: planned, readyUrl } = plans[name];
    await openPart(() => run(name, file, planned, () => answersOk(readyUrl)));
  };
  await startPlanned('prometheus');

  return {
    postgres: {
      url: databaseUrl,
      stop: () => server.stop(),
      start: async () => {
        server = await openEmbeddedPostgres({ dataDir, say, port: server.port });
      },
    },
    redis,
    service,
    load,
    watch,
    isWell: async () => load.isWell() && (await readState(urlOf(ports.api)).catch(() => '')) === 'ok',
    startAlertmanager: () => startPlanned('alertmanager'),
    request,
    createKey,
  };
}

async function readState(url: string): Promise<string | undefined> {
  const response = await fetch(`${url}/health/ready`, { signal: AbortSignal.timeout(2000) });
  const { status } = (await response.json()) as { status?: string };
  return status;
}

async function findFreePorts() {
  const names = ['redis', 'api', 'metrics', 'prometheus', 'alertmanager'] as const;
  const found = new Set<number>();
  while (found.size < names.length) found.add(await findFreePort());
  const [redis = 0, api = 0, metrics = 0, prometheus = 0, alertmanager = 0] = found;
  return { redis, api, metrics, prometheus, alertmanager };
}

function canConnect(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => resolve(true));
    socket.once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}
