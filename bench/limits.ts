// Goes with the example: src/features/orders
import autocannon from 'autocannon';
import { Redis } from 'ioredis';
import { findRedis } from './redis.ts';
import { sayCosts, takeTurns } from './rounds.ts';
import { startServer } from './servers.ts';

const ROUNDS = 11;
const SECONDS = 1;
const KEYS = 100;
const STORES = ['none', 'plugin', 'ours as store', 'ours'];
const SERVER = new URL('limits-server.ts', import.meta.url).pathname;

/**
 * What a limit costs a request: @fastify/rate-limit with its own Redis store, the same with our leases as its
 * store, and ours, each on a server of its own beside one without any limit; and the commands that Redis is sent
 * for a request. Uses REDIS_URL, or a `redis-server` on PATH.
 */
export async function benchLimits(say: (line?: string) => void): Promise<void> {
  const redis = await findRedis();
  const client = new Redis(redis.url);
  const commands = STORES.map(() => ({ sent: 0, requests: 0 }));
  const servers = await Promise.all(
    STORES.map((store) =>
      startServer(SERVER, { REDIS_URL: redis.url, BENCH_STORE: store, BENCH_LIMIT: '10000000' }),
    ),
  );
  const requests = Array.from({ length: KEYS }, (_, key) => ({
    method: 'GET' as const,
    path: '/',
    headers: { 'x-api-key': `key-${key}` },
  }));
  const sides = STORES.map((name, index) => ({
    name: { none: 'no limit', plugin: '@fastify/rate-limit, its store' }[name] ?? name,
    run: async () => {
      const server = servers[index];
      const counted = commands[index];
      if (!server || !counted) throw new Error(`no server for ${name}`);
      const [before, sentBefore] = [await server.usage(), await countCommands(client)];
      const { requests: answered, non2xx } = await autocannon({
        url: server.url,
        connections: 32,
        duration: SECONDS,
        requests,
      });
      if (non2xx > 0) throw new Error(`${non2xx} answers were not 200`);
      const after = await server.usage();
      counted.sent += (await countCommands(client)) - sentBefore;
      counted.requests += answered.total;
      return (after.cpuMicros - before.cpuMicros) / answered.total;
    },
  }));
  try {
    const micros = await takeTurns(sides, ROUNDS);
    say(`\nA limit per key, ${KEYS} keys: CPU of the process for a request, µs: median (min–max)`);
    sayCosts(say, sides, micros, 0);
    say('Commands that Redis got for a request:');
    for (const [index, { name }] of sides.entries()) {
      const { sent = 0, requests: count = 1 } = commands[index] ?? {};
      say(`  ${name.padEnd(34)} ${(sent / count).toFixed(4)}`);
    }
  } finally {
    for (const server of servers) await server.stop();
    client.disconnect();
    redis.stop();
  }
}

/** Scripts and commands from outside; what a script calls inside is not sent. */
async function countCommands(client: Redis): Promise<number> {
  const stats = await client.info('commandstats');
  return [...stats.matchAll(/^cmdstat_(?:eval|evalsha|fcall):calls=(\d+)/gm)].reduce(
    (sum, [, calls]) => sum + Number(calls),
    0,
  );
}
