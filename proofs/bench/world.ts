// Goes with the example: src/features/orders
import { rm } from 'node:fs/promises';
import type { Redis } from 'ioredis';
import { Pool } from 'pg';
import { pino } from 'pino';
import { openEmbeddedPostgres } from '../../tools/dev/embedded-postgres.ts';
import { migrateUp } from '../../src/cli/migrate.ts';
import { loadConfig } from '../../src/config/config.ts';
import { createMetrics } from '../../src/observability/metrics.ts';
import { createAfterWrite } from '../../src/cache/after-write.ts';
import { createApiKeyAdmin } from '../../src/auth/administration.ts';
import { openPostgres } from '../../src/postgres/postgres.ts';
import type { Request } from './drive.ts';
import { storePeerKeys } from './peer-keys.ts';
import { connectRedis, findRedis } from './redis.ts';
import { atOnce } from './rounds.ts';
import { startServer } from './servers.ts';

export interface World {
  /** Environment of the service, with limits out of the way. */
  env: NodeJS.ProcessEnv & { DATABASE_URL: string; REDIS_URL: string };
  /** A key of each tenant, and its order. */
  tenants: { tenant: string; token: string; path: string }[];
  /** What each of these orders is answered as, as JSON text. */
  body: string;
  redis: Redis;
  db: Pool;
  /** A read a key; the keys are dealt to the tenants, and those beyond their number are made now. */
  reads(keys: number): Promise<Request[]>;
  stop(): Promise<void>;
}

export const TENANTS = 100;
/** Connections to Postgres, of the service and of all that it is compared with. */
export const POOL = 10;
export const MAIN = new URL('../../dist/main.js', import.meta.url).pathname;
const DATA = new URL('../../.hardpoint/bench-pg', import.meta.url).pathname;
const ACTOR = { actor: 'bench', requestId: null, ip: null };

/**
 * A real Postgres of its own with tenants, keys and orders, and REDIS_URL or a `redis-server` on PATH; both are
 * shared by everything that is compared.
 */
export async function makeWorld(say: (line: string) => void): Promise<World> {
  const server = await findRedis();
  await rm(DATA, { recursive: true, force: true });
  const postgres = await openEmbeddedPostgres({ dataDir: DATA, say });
  const env = {
    DATABASE_URL: postgres.url,
    REDIS_URL: server.url,
    EXPECTED_REPLICAS: '1',
    API_HOST: '127.0.0.1',
    API_PORT: '0',
    METRICS_PORT: '0',
    DRAIN_DELAY_SECONDS: '0',
    // As many as pg takes by itself.
    CONNECTION_POOL_SIZE: String(POOL),
    RATE_LIMIT_PER_MINUTE: '10000000',
    CACHE_TTL_SECONDS: '600',
    // A machine that is busy with the load is no reason to refuse it.
    MAX_EVENT_LOOP_DELAY_MS: '60000',
    // As the image has it, for all sides.
    NODE_OPTIONS: '--max-semi-space-size=4',
  };
  await migrateUp({ databaseUrl: postgres.url, say: () => undefined });
  const redis = await connectRedis(server.url);
  const db = new Pool({ connectionString: postgres.url, max: 4 });
  db.on('error', () => undefined);
  const issue = createIssuer(env);
  const known = await issue(0, TENANTS);
  const { paths, body } = await createOrders(known, env);
  await storePeerKeys(known, { db, redis });
  say(`${TENANTS} tenants with a key and an order each, ${body.length} bytes an answer`);

  return {
    env,
    tenants: known.map(({ tenant, token }, index) => ({ tenant, token, path: paths[index] ?? '' })),
    body,
    redis,
    db,
    async reads(keys) {
      if (known.length < keys) {
        const more = await issue(known.length, keys);
        await storePeerKeys(more, { db, redis });
        known.push(...more);
      }
      return known.slice(0, keys).map(({ token }, index) => ({
        method: 'GET',
        path: paths[index % TENANTS] ?? '',
        headers: headersOf(token),
      }));
    },
    async stop() {
      await db.end();
      redis.disconnect();
      await postgres.stop();
      await rm(DATA, { recursive: true, force: true });
      server.stop();
    },
  };
}

export function headersOf(token: string): Record<string, string> {
  return { authorization: `Bearer ${token}`, accept: 'application/json' };
}

export interface IssuedKey {
  tenant: string;
  token: string;
}

/** Makes the keys from one number up to another. */
function createIssuer(env: NodeJS.ProcessEnv) {
  const { auth, postgres } = loadConfig(env).config;
  return async (from: number, to: number): Promise<IssuedKey[]> => {
    const deps = { log: pino({ level: 'silent' }), metrics: createMetrics('bench') };
    const db = openPostgres(
      { ...postgres, applicationName: 'hardpoint-bench' },
      { ...deps, target: 'primary' },
    );
    const afterWrite = createAfterWrite({ announce: async () => true, log: deps.log });
    const admin = createApiKeyAdmin(db, { ...auth, afterWrite });
    const keys: IssuedKey[] = [];
    await atOnce(to - from, async (index) => {
      const tenant = `t${(from + index) % TENANTS}`;
      const wanted = { tenant, name: 'bench', scopes: ['*'], limitPerMinute: null, expiresAt: null };
      keys[index] = { tenant, token: (await admin.create(wanted, ACTOR)).token };
    });
    await db.close();
    return keys;
  };
}

async function createOrders(keys: IssuedKey[], env: NodeJS.ProcessEnv) {
  const service = await startServer(MAIN, env);
  const paths: string[] = [];
  let body = '';
  for (const [index, { token }] of keys.entries()) {
    const response = await fetch(`${service.url}/v1/orders`, {
      method: 'POST',
      headers: { ...headersOf(token), 'content-type': 'application/json' },
      body: newOrder(`bench-${index}`),
    });
    body = await response.text();
    if (response.status !== 201) throw new Error(`an order was answered ${response.status}: ${body}`);
    paths.push(response.headers.get('location') ?? '');
  }
  await service.stop();
  return { paths, body };
}

/** A body that creates an order of three items. */
export function newOrder(reference: string): string {
  const items = [1, 2, 3].map((item) => ({ sku: `SKU-${item}`, quantity: item, unitPriceMinor: 1250 }));
  return JSON.stringify({ reference, currency: 'EUR', items });
}
