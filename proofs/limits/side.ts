// Goes with the example: src/features/orders
import { compareServers, type HttpSide } from '../bench/http-sides.ts';
import { connectRedis, findRedis } from '../bench/redis.ts';
import type { Report } from '../bench/report.ts';
import { startServer } from '../bench/servers.ts';

const PACE = { rounds: 11, seconds: 1 };
const CONNECTIONS = 32;
const KEYS = 100;
const STORES = ['none', 'plugin', 'ours as store', 'ours'];
const SERVER = new URL('limits-server.ts', import.meta.url).pathname;

/**
 * What a limit costs a request: @fastify/rate-limit with its own Redis store, the same with our leases as its
 * store, and ours, each on a server of its own beside one without any limit; and the commands that Redis is sent
 * for a request. Uses REDIS_URL, or a `redis-server` on PATH.
 */
export async function benchLimits(report: Report): Promise<void> {
  const found = await findRedis();
  const redis = await connectRedis(found.url);
  const requests = Array.from({ length: KEYS }, (_, key) => ({
    method: 'GET' as const,
    path: '/',
    headers: { 'x-api-key': `key-${key}` },
  }));
  const sides: HttpSide[] = [];
  for (const store of STORES) {
    const env = { REDIS_URL: found.url, BENCH_STORE: store, BENCH_LIMIT: '10000000' };
    const name = { none: 'no limit', plugin: '@fastify/rate-limit, its store' }[store] ?? store;
    const load = { requests, connections: CONNECTIONS };
    sides.push({ name, servers: [await startServer(SERVER, env)], load });
  }
  try {
    await compareServers(report, `A limit per key, ${KEYS} keys`, sides, { ...PACE, redis }, 3);
  } finally {
    for (const { servers } of sides) for (const server of servers) await server.stop();
    redis.disconnect();
    found.stop();
  }
}
