// Goes with the example: src/features/orders
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { runApiKey } from '../../src/cli/api-key.ts';
import { startNginx } from '../../test/support/nginx.ts';
import { createDatabase } from '../../test/support/postgres.ts';
import { redisUrl } from '../../test/support/redis.ts';
import { startService, type ServiceProcess } from '../../test/support/service.ts';
import { openTcpProxy } from '../../test/support/tcp-proxy.ts';
import { findTool } from '../../test/support/tools.ts';

const REPLICAS = 3;
export const API_KEY_ENV = { API_KEY_SECRET: 'only-for-tests-8b1f0c6d2e9a4753-51f6' };

/** Real servers on loopback, one database and one Redis for all. */
export interface LoadWorld {
  replicas: ServiceProcess[];
  /** In front of the replicas: nginx where there is one, else all of them, separated by commas. */
  front: string;
  /** Without nginx, which takes 300 requests a second of one address. */
  direct: string;
  statusUrls: string;
  /** A process of its own with a Postgres that can be made slow. */
  fragile: { service: ServiceProcess; proxy: { delayMs: number } };
  /** Where results go, and keys. */
  folder: string;
  /** A file with so many keys, of tenants of their own, two each. */
  makeKeys(name: string, count: number, limit: number): Promise<string>;
  close(): Promise<void>;
}

/** @throws Error when Redis cannot be had */
export async function openWorld(): Promise<LoadWorld> {
  const closers: (() => unknown)[] = [];
  const close = async () => {
    for (const work of closers.splice(0).toReversed()) await work();
  };
  // What the parts of the tests want of a test.
  const t = {
    fullname: 'check:load',
    teardown: (work: () => unknown) => void closers.push(work),
    pass: () => undefined,
    comment: () => undefined,
  } as unknown as Test;
  try {
    return { ...(await startAll(t)), close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function startAll(t: Test): Promise<Omit<LoadWorld, 'close'>> {
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-load-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const [databaseUrl, redis] = [await createDatabase(t), await redisUrl(t)];
  if (!redis) throw new Error('check:load needs Redis: install redis-server, or set TEST_REDIS_URL');
  const env = {
    DATABASE_URL: databaseUrl,
    REDIS_URL: redis,
    EXPECTED_REPLICAS: String(REPLICAS),
    TRUSTED_PROXIES: '127.0.0.1/32',
    SECRET_KEY: 'only-for-tests-f0e1d2c3b4a59687-7768',
    CONNECTION_POOL_SIZE: '15',
    LOG_LEVEL: 'warn',
    // A busy machine is late, and Redis is not away: what an answer brings that nobody waits for is lost.
    REDIS_COMMAND_TIMEOUT_MS: '2000',
    ...API_KEY_ENV,
  };
  const replicas = await Promise.all(Array.from({ length: REPLICAS }, () => startService(t, env)));
  const direct = replicas.map(({ url }) => url).join();
  const nginx =
    findTool('nginx') &&
    (await startNginx(
      t,
      replicas.map(({ port }) => port),
    ));
  const proxy = await openTcpProxy(Number(new URL(databaseUrl).port));
  t.teardown(proxy.close);
  const slowUrl = Object.assign(new URL(databaseUrl), { host: `127.0.0.1:${proxy.port}` }).href;
  const service = await startService(t, { ...env, DATABASE_URL: slowUrl, CONNECTION_POOL_SIZE: '5' });

  return {
    replicas,
    direct,
    front: nginx ? `https://localhost:${nginx.httpsPort}` : direct,
    statusUrls: replicas.map(({ metricsUrl }) => metricsUrl).join(),
    fragile: { service, proxy },
    folder,

    async makeKeys(name, count, limit) {
      const tokens: string[] = [];
      for (let index = 0; index < count; index++) {
        const tenant = `${name}-${Math.floor(index / 2)}`;
        const scopes = 'orders:read,orders:write,status:read';
        const options = ['--tenant', tenant, '--scopes', scopes, '--limit', String(limit), '--json'];
        const made = await runApiKey(['create', ...options], env);
        tokens.push((JSON.parse(made) as { token: string }).token);
      }
      const file = join(folder, `${name}.txt`);
      writeFileSync(file, `${tokens.join('\n')}\n`, { mode: 0o600 });
      return file;
    },
  };
}
