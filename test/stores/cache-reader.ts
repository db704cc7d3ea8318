import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { createMetrics } from '../../src/metrics.ts';
import { createCache } from '../../src/stores/cache.ts';
import { openRedis } from '../../src/stores/redis.ts';

// One process of cache.test.ts: says `ready`, waits for a line, reads one key many times at once and prints what
// it got; each load is counted in Redis.
const [url = '', reads = ''] = process.argv.slice(2);
const deps = { log: pino({ level: 'silent' }), metrics: createMetrics('test') };
const redis = openRedis({ url, commandTimeoutMs: 1000, role: 'cache' }, deps);
const cache = createCache(
  { prefix: 'fleet', ttlSeconds: 60, maxRows: 100, alone: false },
  { redis, ...deps },
);
while (!redis.ready()) await delay(5);
process.stdout.write('ready\n');
await once(process.stdin, 'data');

const load = async () => {
  const number = await redis.client.incr('loads');
  await delay(200);
  return { number };
};
const key = { tenant: 'acme', name: 'order', id: '1' };
const values = await Promise.all(Array.from({ length: Number(reads) }, () => cache.get(key, load)));

process.stdout.write(`${JSON.stringify(values)}\n`);
process.stdin.destroy();
await redis.close();
