// Goes with the example: src/features/orders
import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { createMetrics } from '../../src/observability/metrics.ts';
import { createCache } from '../../src/cache/cache.ts';
import { openRedis, type RedisHandle } from '../../src/redis/redis.ts';
import { findRedis } from './redis.ts';
import type { Report } from './report.ts';
import { atOnce, ownMicros, takeTurns } from './rounds.ts';

const ROUNDS = 15;
const SETTINGS = { prefix: 'bench', ttlSeconds: 600, maxRows: 1000 };
const deps = { log: pino({ level: 'silent' }), metrics: createMetrics('bench') };

const order = (id: number) => ({
  id: `01990000-0000-7000-8000-${String(id).padStart(12, '0')}`,
  reference: `bench-${id}`,
  status: 'pending',
  currency: 'EUR',
  totalMinor: 7500,
  items: [1, 2, 3].map((item) => ({ sku: `SKU-${item}`, quantity: item, unitPriceMinor: 1250 })),
  version: 1,
  createdAt: '2026-01-31T12:00:00.000Z',
  updatedAt: '2026-01-31T12:00:00.000Z',
});

/**
 * What a cached read costs this process, up to the text that is sent: `GET` with parse and serialise, which
 * is what a cache usually does, against ours that has to ask Redis, and against ours that need not. All take
 * turns in slices of one run; what counts is CPU time and the ratio within a round. Uses REDIS_URL, or a
 * `redis-server` on PATH.
 */
export async function benchCache(report: Report): Promise<void> {
  const server = await findRedis();
  const redis = openRedis({ url: server.url, commandTimeoutMs: 5000, role: 'cache' }, deps);
  while (!redis.ready()) await delay(10);
  // Each cache below listens for itself.
  redis.client.setMaxListeners(0);
  try {
    await compare(redis, 'one order', 2000, order, report);
    await compare(redis, 'page of 100', 200, (id) => Array.from({ length: 100 }, () => order(id)), report);
  } finally {
    await redis.close();
    server.stop();
  }
}

async function compare(
  redis: RedisHandle,
  name: string,
  count: number,
  valueOf: (id: number) => unknown,
  report: Report,
): Promise<void> {
  const key = (id: number) => ({ tenant: 'acme', name, id: String(id) });
  const ids = Array.from({ length: count }, (_, id) => id);
  const never = async () => Promise.reject(new Error('it is not in Redis'));
  const seed = createCache({ ...SETTINGS, singleProcess: false }, { ...deps, redis });
  const hot = createCache({ ...SETTINGS, singleProcess: true }, deps);
  for (const id of ids) {
    await redis.client.set(`plain:${name}:${id}`, JSON.stringify(valueOf(id)), 'EX', 600);
    await seed.read(key(id), async () => valueOf(id));
    await hot.read(key(id), async () => valueOf(id));
  }

  let written = 0;
  const sides = [
    {
      name: 'GET, parse, serialise',
      run: () =>
        ownMicros(count, () =>
          atOnce(count, async (id) => {
            const text = (await redis.client.get(`plain:${name}:${id}`)) ?? '';
            written += JSON.stringify(JSON.parse(text)).length;
          }),
        ),
    },
    {
      name: 'ours, from Redis',
      run: () => {
        // One that keeps nothing yet.
        const cold = createCache({ ...SETTINGS, singleProcess: false }, { ...deps, redis });
        return ownMicros(count, () =>
          atOnce(count, async (id) => {
            written += (await cold.read(key(id), never)).json?.length ?? 0;
          }),
        );
      },
    },
    {
      name: 'ours, from memory',
      run: () =>
        ownMicros(count, () => {
          for (const id of ids) written += hot.peek(key(id))?.json?.length ?? 0;
        }),
    },
  ];
  const micros = await takeTurns(sides, ROUNDS);
  const bytes = JSON.stringify(valueOf(0)).length;
  const measured = sides.map((side, index) => ({ name: side.name, micros: micros[index] ?? [] }));
  report.compare(`Cache, ${name} of ${bytes} bytes`, measured, 2);
  if (written === 0) throw new Error('nothing was read');
}
