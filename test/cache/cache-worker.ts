import { createInterface } from 'node:readline';
import { pino } from 'pino';
import { createMetrics } from '../../src/observability/metrics.ts';
import type { CacheKey } from '../../src/cache/serialization.ts';
import { createCache } from '../../src/cache/cache.ts';
import { openPostgres, type Query } from '../../src/postgres/postgres.ts';
import { openRedis } from '../../src/redis/redis.ts';

/** One line on stdin, answered by one on stdout when it is done. Without `read` the key is invalidated. */
export interface Command {
  at: number;
  key: CacheKey;
  redis: boolean;
  read?: { times: number; query: Query };
}

export interface Answer {
  at: number;
  /** Each different one. */
  values: unknown[];
  ageSeconds: number;
}

// One process of cache-fleet.test.ts, with a cache that has a Redis and one that has none; ends with its stdin.
const [url = '', databaseUrl = ''] = process.argv.slice(2);
const deps = { log: pino({ level: 'silent' }), metrics: createMetrics('test') };
const redis = openRedis({ url, commandTimeoutMs: 3000, role: 'cache' }, deps);
const settings = { prefix: 'test', ttlSeconds: 60, maxRows: 100, singleProcess: false };
const caches = { shared: createCache(settings, { redis, ...deps }), local: createCache(settings, deps) };
const db = openPostgres(
  {
    url: databaseUrl,
    applicationName: 'test',
    poolMax: 5,
    poolWaitMs: 3000,
    queryTimeoutMs: 20_000,
    pgbouncer: false,
  },
  { ...deps, target: 'primary' },
);
redis.onReady(() => process.stdout.write('ready\n'));

const lines = createInterface(process.stdin);
lines.on('line', (line) => void answer(JSON.parse(line)));
lines.on('close', () => process.exit());

async function answer({ at, key, redis: withRedis, read }: Command): Promise<void> {
  const cache = withRedis ? caches.shared : caches.local;
  const done: Answer = { at, values: [], ageSeconds: 0 };
  if (read) {
    const load = async () => (await db.query<{ value: string | null }>(read.query))[0]?.value ?? undefined;
    const entries = await Promise.all(Array.from({ length: read.times }, () => cache.read(key, load)));
    done.values = [...new Set(entries.map(({ value }) => value))];
    done.ageSeconds = Math.max(...entries.map(({ ageSeconds }) => ageSeconds));
  } else {
    await cache.invalidate(key);
  }
  process.stdout.write(`${JSON.stringify(done)}\n`);
}
