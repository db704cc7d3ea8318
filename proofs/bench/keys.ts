// Goes with the example: src/features/orders
import { rm } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { openEmbeddedPostgres } from '../../tools/dev/embedded-postgres.ts';
import { migrateUp } from '../../src/cli/migrate.ts';
import { createMetrics } from '../../src/observability/metrics.ts';
import { createAfterWrite } from '../../src/cache/after-write.ts';
import { createApiKeyAdmin } from '../../src/auth/administration.ts';
import { digestToken } from '../../src/auth/token.ts';
import { createKeyVerifier } from '../../src/auth/key-check.ts';
import { createApiKeyCache } from '../../src/auth/key-cache.ts';
import { openPostgres } from '../../src/postgres/postgres.ts';
import { openRedis } from '../../src/redis/redis.ts';
import { findRedis } from './redis.ts';
import type { Report } from './report.ts';
import { atOnce, ownMicros, takeTurns } from './rounds.ts';

const ROUNDS = 15;
const KEYS = 100;
/** Look-ups in one slice; ours needs more of them to be measured at all. */
const SLICE = { asked: 2_000, remembered: 200_000 };
const SETTINGS = { keySecret: 'only-for-the-bench-4c1d9a7e', keyEnvironment: 'live' };
const ACTOR = { actor: 'bench', requestId: null, ip: null };
const DATA = new URL('../../.hardpoint/bench-keys-pg', import.meta.url).pathname;

/**
 * What it costs this process to know whose key it is: by a query and a digest, by a digest and `GET` with
 * parse from Redis, and by ours from memory. All take turns in slices of one run; what counts is CPU time
 * and the ratio within a round. Uses REDIS_URL, or a `redis-server` on PATH.
 */
export async function benchKeys(report: Report): Promise<void> {
  const deps = { log: pino({ level: 'silent' }), metrics: createMetrics('bench') };
  const server = await findRedis();
  await rm(DATA, { recursive: true, force: true });
  const postgres = await openEmbeddedPostgres({ dataDir: DATA, say: (line) => report.say(line) });
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
    const afterWrite = createAfterWrite({ announce: async () => true, log: deps.log });
    const admin = createApiKeyAdmin(db, { ...SETTINGS, afterWrite });
    const wanted = {
      tenant: 'acme',
      name: 'bench',
      scopes: ['a:b', 'c:d'],
      limitPerMinute: null,
      expiresAt: null,
    };
    const cache = createApiKeyCache(db, { ...SETTINGS, isInformed: () => true });
    const verifyApiKey = createKeyVerifier(db, SETTINGS);
    const redisKey = (token: string) =>
      `bench:key:${digestToken(token, SETTINGS.keySecret).toString('base64url')}`;
    const tokens: string[] = [];
    for (let i = 0; i < KEYS; i++) {
      const { key, token } = await admin.create(wanted, ACTOR);
      tokens.push(token);
      await redis.client.set(redisKey(token), JSON.stringify(key), 'EX', 600);
    }

    let good = 0;
    /** Ours asks once in five seconds, which is no part of the hot path. */
    const measure = async (count: number, work: () => unknown) => {
      await Promise.all(tokens.map((token) => cache.find(token)));
      good = 0;
      const micros = await ownMicros(count, work);
      if (good !== count) throw new Error(`${good} of ${count} keys were good`);
      return micros;
    };
    const tokenAt = (index: number) => tokens[index % KEYS] ?? '';
    const sides = [
      {
        name: 'query and digest',
        run: () =>
          measure(SLICE.asked, () =>
            atOnce(SLICE.asked, async (index) => {
              if ('principal' in (await verifyApiKey(tokenAt(index))).result) good++;
            }),
          ),
      },
      {
        name: 'digest, GET and parse',
        run: () =>
          measure(SLICE.asked, () =>
            atOnce(SLICE.asked, async (index) => {
              const text = (await redis.client.get(redisKey(tokenAt(index)))) ?? '{}';
              const { tenant, scopes } = JSON.parse(text);
              if (tenant === 'acme' && new Set(scopes).size === 2) good++;
            }),
          ),
      },
      {
        name: 'ours, from memory',
        run: () =>
          measure(SLICE.remembered, () => {
            for (let i = 0; i < SLICE.remembered; i++) {
              const result = cache.peek(tokenAt(i));
              if (result && 'principal' in result) good++;
            }
          }),
      },
    ];
    const micros = await takeTurns(sides, ROUNDS);
    const measured = sides.map(({ name }, index) => ({ name, micros: micros[index] ?? [] }));
    report.compare('Key look-up', measured, 2);
  } finally {
    await redis.close();
    await db.close();
    await postgres.stop();
    await rm(DATA, { recursive: true, force: true });
    server.stop();
  }
}
