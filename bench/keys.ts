// Goes with the example: src/features/orders
import { rm } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { openEmbeddedPostgres } from '../src/commands/embedded-postgres.ts';
import { migrateUp } from '../src/commands/migrate.ts';
import { createMetrics } from '../src/metrics.ts';
import { createApiKeyAdmin } from '../src/stores/api-key-admin.ts';
import { digestToken } from '../src/stores/api-key-token.ts';
import { checkKey } from '../src/stores/key-check.ts';
import { createKeyRing } from '../src/stores/key-ring.ts';
import { openPostgres } from '../src/stores/postgres.ts';
import { openRedis } from '../src/stores/redis.ts';
import { findRedis } from './redis.ts';

const ROUNDS = 15;
const IN_FLIGHT = 32;
const KEYS = 100;
/** Look-ups in one slice; ours needs more of them to be measured at all. */
const SLICE = { asked: 2_000, remembered: 200_000 };
const SETTINGS = { keySecret: 'only-for-the-bench-4c1d9a7e', keyEnvironment: 'live' };
const ACTOR = { actor: 'bench', requestId: null, ip: null };
const DATA = new URL('../.hardpoint/bench-keys-pg', import.meta.url).pathname;

/**
 * What it costs this process to know whose key it is: by a query and a digest, by a digest and `GET` with
 * parse from Redis, and by ours from memory. All take turns in slices of one run; what counts is CPU time
 * and the ratio within a round. Uses REDIS_URL, or a `redis-server` on PATH.
 */
export async function benchKeys(say: (line?: string) => void): Promise<void> {
  const deps = { log: pino({ level: 'silent' }), metrics: createMetrics('bench') };
  const server = await findRedis();
  await rm(DATA, { recursive: true, force: true });
  const postgres = await openEmbeddedPostgres({ dataDir: DATA, say });
  await migrateUp({ databaseUrl: postgres.url, say: () => undefined });
  const db = openPostgres(
    {
      url: postgres.url,
      poolMax: 10,
      poolWaitMs: 5_000,
      queryTimeoutMs: 10_000,
      pgbouncer: false,
      applicationName: 'hardpoint-bench',
    },
    { ...deps, target: 'primary' },
  );
  const redis = openRedis({ url: server.url, commandTimeoutMs: 5_000, role: 'limits' }, deps);
  while (!redis.ready()) await delay(10);

  try {
    const admin = createApiKeyAdmin(db, { ...SETTINGS, announce: async () => true });
    const wanted = {
      tenant: 'acme',
      name: 'bench',
      scopes: ['a:b', 'c:d'],
      limitPerMinute: null,
      expiresAt: null,
    };
    const ring = createKeyRing(db, { ...SETTINGS, hearsOfChanges: () => true });
    const redisKey = (token: string) =>
      `bench:key:${digestToken(token, SETTINGS.keySecret).toString('base64url')}`;
    const tokens: string[] = [];
    for (let i = 0; i < KEYS; i++) {
      const { key, token } = await admin.create(wanted, ACTOR);
      tokens.push(token);
      await redis.client.set(redisKey(token), JSON.stringify(key), 'EX', 600);
    }

    let good = 0;
    const sides = [
      {
        name: 'query and digest',
        count: SLICE.asked,
        run: () =>
          inTurn(tokens, SLICE.asked, async (token) => {
            if ('principal' in (await checkKey(db, SETTINGS, token)).verdict) good++;
          }),
      },
      {
        name: 'digest, GET and parse',
        count: SLICE.asked,
        run: () =>
          inTurn(tokens, SLICE.asked, async (token) => {
            const { tenant, scopes } = JSON.parse((await redis.client.get(redisKey(token))) ?? '{}');
            if (tenant === 'acme' && new Set(scopes).size === 2) good++;
          }),
      },
      {
        name: 'ours, from memory',
        count: SLICE.remembered,
        run: async () => {
          for (let i = 0; i < SLICE.remembered; i++) {
            const verdict = ring.peek(tokens[i % KEYS] ?? '');
            if (verdict && 'principal' in verdict) good++;
          }
        },
      },
    ];
    const micros: number[][] = sides.map(() => []);
    for (let round = -1; round < ROUNDS; round++) {
      for (const turn of sides.keys()) {
        const index = (turn + round + sides.length) % sides.length;
        const side = sides[index];
        if (!side) continue;
        // Ours asks once in five seconds, which is no part of the hot path.
        await Promise.all(tokens.map((token) => ring.find(token)));
        const before = process.cpuUsage();
        good = 0;
        await side.run();
        const { user, system } = process.cpuUsage(before);
        if (good !== side.count) throw new Error(`${side.name}: ${good} of ${side.count} keys were good`);
        if (round >= 0) micros[index]?.push((user + system) / side.count);
      }
    }

    say('\nKey look-up: CPU of this process, µs: median (min–max), and how many times ours it is');
    const ours = micros.at(-1) ?? [];
    for (const [index, { name }] of sides.entries()) {
      const costs = micros[index] ?? [];
      const ratios = costs.map((cost, round) => cost / (ours[round] ?? NaN));
      say(`  ${name.padEnd(24)} ${spread(costs, 2).padEnd(26)} ratio ${spread(ratios, 0)}`);
    }
  } finally {
    await redis.close();
    await db.close();
    await postgres.stop();
    await rm(DATA, { recursive: true, force: true });
    server.stop();
  }
}

/** So many at once as a busy service has. */
async function inTurn(
  tokens: string[],
  count: number,
  work: (token: string) => Promise<void>,
): Promise<void> {
  let next = 0;
  const worker = async () => {
    while (next < count) await work(tokens[next++ % tokens.length] ?? '');
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, worker));
}

function spread(samples: number[], digits: number): string {
  const sorted = samples.toSorted((a, b) => a - b);
  const at = (share: number) => (sorted[Math.floor((sorted.length - 1) * share)] ?? NaN).toFixed(digits);
  return `${at(0.5)} (${at(0)}–${at(1)})`;
}
