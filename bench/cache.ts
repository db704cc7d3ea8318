// Goes with the example: src/features/orders
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { findFreePort } from '../src/commands/free-port.ts';
import { createMetrics } from '../src/metrics.ts';
import { createCache } from '../src/stores/cache.ts';
import { openRedis, type RedisHandle } from '../src/stores/redis.ts';

const ROUNDS = 15;
const IN_FLIGHT = 32;
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
export async function benchCache(say: (line?: string) => void): Promise<void> {
  const server = await findRedis();
  const redis = openRedis({ url: server.url, commandTimeoutMs: 5000, role: 'cache' }, deps);
  while (!redis.ready()) await delay(10);
  // Each cache below listens for itself.
  redis.client.setMaxListeners(0);
  try {
    await compare(redis, 'one order', 2000, order, say);
    await compare(redis, 'page of 100', 200, (id) => Array.from({ length: 100 }, () => order(id)), say);
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
  say: (line?: string) => void,
): Promise<void> {
  const key = (id: number) => ({ tenant: 'acme', name, id: String(id) });
  const ids = Array.from({ length: count }, (_, id) => id);
  const never = async () => Promise.reject(new Error('it is not in Redis'));
  const seed = createCache({ ...SETTINGS, alone: false }, { ...deps, redis });
  const hot = createCache({ ...SETTINGS, alone: true }, deps);
  for (const id of ids) {
    await redis.client.set(`plain:${name}:${id}`, JSON.stringify(valueOf(id)), 'EX', 600);
    await seed.read(key(id), async () => valueOf(id));
    await hot.read(key(id), async () => valueOf(id));
  }

  let written = 0;
  const sides: { name: string; run(): Promise<void> }[] = [
    {
      name: 'GET, parse, serialise',
      run: () =>
        eachOf(ids, async (id) => {
          const text = (await redis.client.get(`plain:${name}:${id}`)) ?? '';
          written += JSON.stringify(JSON.parse(text)).length;
        }),
    },
    {
      name: 'ours, from Redis',
      run: () => {
        // One that keeps nothing yet.
        const cold = createCache({ ...SETTINGS, alone: false }, { ...deps, redis });
        return eachOf(ids, async (id) => {
          written += (await cold.read(key(id), never)).json?.length ?? 0;
        });
      },
    },
    {
      name: 'ours, from memory',
      run: async () => {
        for (const id of ids) written += hot.peek(key(id))?.json?.length ?? 0;
      },
    },
  ];

  const micros: number[][] = sides.map(() => []);
  for (const { run } of sides) await run();
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const turn of sides.keys()) {
      const index = (turn + round) % sides.length;
      const before = process.cpuUsage();
      await sides[index]?.run();
      const { user, system } = process.cpuUsage(before);
      micros[index]?.push((user + system) / count);
    }
  }

  const bytes = JSON.stringify(valueOf(0)).length;
  say(`\nCache, ${name} of ${bytes} bytes: CPU of this process for a read, µs: median (min–max)`);
  const [usual = []] = micros;
  for (const [index, side] of sides.entries()) {
    const costs = micros[index] ?? [];
    const ratios = costs.map((cost, round) => cost / (usual[round] ?? NaN));
    say(`  ${side.name.padEnd(24)} ${spread(costs, 1).padEnd(24)} ratio ${spread(ratios, 3)}`);
  }
  if (written === 0) throw new Error('nothing was read');
}

/** So many at once as a busy service has. */
async function eachOf(ids: number[], work: (id: number) => Promise<void>): Promise<void> {
  const rest = [...ids];
  const worker = async () => {
    for (let id = rest.pop(); id !== undefined; id = rest.pop()) await work(id);
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
}

function spread(samples: number[], digits: number): string {
  const sorted = samples.toSorted((a, b) => a - b);
  const at = (share: number) => (sorted[Math.floor((sorted.length - 1) * share)] ?? NaN).toFixed(digits);
  return `${at(0.5)} (${at(0)}–${at(1)})`;
}

async function findRedis(): Promise<{ url: string; stop(): void }> {
  const given = process.env.REDIS_URL;
  if (given) return { url: given, stop: () => undefined };
  const port = await findFreePort();
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', ''];
  const child = spawn('redis-server', args, { stdio: 'ignore' });
  await once(child, 'spawn').catch((cause: unknown) => {
    throw new Error('The bench of the cache needs a Redis: set REDIS_URL or install redis-server', { cause });
  });
  return { url: `redis://127.0.0.1:${port}`, stop: () => void child.kill() };
}
