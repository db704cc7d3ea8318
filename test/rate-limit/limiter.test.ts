import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { mostInAnyWindow } from '../support/admissions.ts';
import { runApiKey } from '../../src/cli/api-key.ts';
import { runCases, startLimiterProcess, type Case, type Outcome } from '../support/limiter-fleet.ts';
import { createDatabase } from '../support/postgres.ts';
import { redisUrl } from '../support/redis.ts';
import { startService } from '../support/service.ts';

/** Stands for the minute, and is long beside what a busy machine does to a process. */
const WINDOW_MS = 6_000;
const WINDOWS = 2;
const COMMAND_TIMEOUT_MS = 750;
/** Other tests run beside this one; test:limits and the property test allow nothing. */
const NOTED_LATE_MS = 20;
/** How twelve keys come to three processes. */
const UNEVEN = Array.from({ length: 12 }, (_, index) => [12 - index, 3 + (index % 5), 1]);
const LOADS = [0.5, 0.9, 2, 5];

t.test('over 1, 3 and 5 processes no window holds more than the limit, and nearly as much', async (t) => {
  const url = await redisUrl(t);
  if (!url) return;
  const cases: Case[] = [1, 3, 5].flatMap((processes) =>
    [5, 20, 100, 1_000].flatMap((max) =>
      LOADS.map((load) => ({ name: `${max} x ${load} on ${processes}`, max, load, processes })),
    ),
  );
  cases.push({ name: '100000 x 2 on 3', max: 100_000, load: 2, processes: 3 });
  const outcomes = await runWhileRedisIsUp(url, cases);
  for (const outcome of outcomes) {
    const { name, max, load, admitted, possible, mostInAWindow, asked, askedEarly } = outcome;
    t.comment(JSON.stringify(outcome));
    t.ok(mostInAWindow <= max, `${name}: at most ${mostInAWindow} in a window`);
    // A machine that does other things offers less than it should, and later.
    if (load > 1)
      t.ok(admitted >= Math.min(0.85 * possible, possible - 5), `${name}: ${admitted} of ${possible}`);
    if (max >= 1_000) t.ok(asked < 0.15 * admitted, `${name}: asked ${asked} times for ${admitted}`);
    t.equal(askedEarly, 0, `${name}: nobody asks before the moment that was named`);
  }
});

t.test('below the limit nothing is refused, however unevenly three processes get the load', async (t) => {
  const url = await redisUrl(t);
  if (!url) return;
  const cases = UNEVEN.map((parts, index) => {
    return { name: `uneven ${index}`, max: 300, load: 0.8, processes: 3, parts };
  });
  const outcomes = await runWhileRedisIsUp(url, cases, { expectedReplicas: 3 });
  const redisWasUp = outcomes.every(({ fellBack }) => fellBack === 0);
  for (const { name, offered, refused, mostInAWindow } of outcomes) {
    t.ok(offered > 300, `${name}: ${offered} offered`);
    t.ok(mostInAWindow <= 300, `${name}: at most ${mostInAWindow} in a window`);
    if (redisWasUp) t.equal(refused, 0, `${name}: ${refused} of ${offered} refused`);
  }
});

t.test('kill -9 of a process loses what it had leased, and nothing more', async (t) => {
  const url = await redisUrl(t);
  if (!url) return;
  const max = 1_000;
  const windowMs = 2_000;
  const keys = [{ name: 'killed', max, perSecond: (2 * max * 1000) / windowMs / 3 }];
  const plan = { redisUrl: url, windowMs, commandTimeoutMs: COMMAND_TIMEOUT_MS, expectedReplicas: 1, keys };
  const fleet = await Promise.all([plan, plan, plan].map(startLimiterProcess));
  for (const process of fleet) process.start();
  await delay(0.25 * windowMs);
  await fleet[0]?.kill();
  await delay(4 * windowMs);
  await Promise.all(fleet.map((process) => process.stop()));
  const admitted = fleet.flatMap((process) => process.admissions().get('killed') ?? []);
  const endMs = Math.max(...admitted.map(({ atMs }) => atMs));
  const last = admitted.filter(({ atMs }) => atMs > endMs - windowMs);
  t.ok((fleet[0]?.admissions().get('killed')?.length ?? 0) > 0, 'it had admitted requests');
  const most = mostInAnyWindow(admitted, windowMs - NOTED_LATE_MS);
  t.ok(most <= max, `at most ${most}`);
  t.ok(last.length > 0.7 * max, `${last.length} of ${max} by the others, later`);
});

t.test('three services admit one limit of 100 together, over HTTP', async (t) => {
  const REDIS_URL = await redisUrl(t);
  if (!REDIS_URL) return;
  const DATABASE_URL = await createDatabase(t);
  // A busy machine is late, and Redis is not away.
  const env = { DATABASE_URL, REDIS_URL, RATE_LIMIT_PER_MINUTE: '100', REDIS_COMMAND_TIMEOUT_MS: '2000' };
  const services = await Promise.all([1, 2, 3].map(() => startService(t, env)));
  const secret = { API_KEY_SECRET: 'only-for-tests-8b1f0c6d2e9a4753-51f6' };
  const created = await runApiKey(['create', '--tenant', 'acme', '--scopes', '*', '--json'], {
    ...env,
    ...secret,
  });
  const { token } = JSON.parse(created) as { token: string };
  const headers = { authorization: `Bearer ${token}` };
  const counts: Record<number, number> = {};
  const startedAt = performance.now();
  await Promise.all(
    services.map(async ({ url }) => {
      for (let i = 0; i < 67; i++) {
        const { status } = await fetch(`${url}/v1/nowhere`, { headers });
        counts[status] = (counts[status] ?? 0) + 1;
      }
    }),
  );
  const { 404: admitted = 0, 429: refused = 0 } = counts;
  t.equal(admitted + refused, 201);
  if (performance.now() - startedAt < 60_000) t.ok(admitted <= 100, `${admitted} of 100`);
  // Who has sent its 67 before the others may still hold what they could have used.
  t.ok(admitted >= 80, `${admitted} of 100`);
});

/** A machine so busy that Redis seems to be away proves nothing: once more. */
async function runWhileRedisIsUp(
  url: string,
  cases: Case[],
  options: { expectedReplicas?: number } = {},
): Promise<Outcome[]> {
  for (let tries = 1; ; tries++) {
    const run = {
      redisUrl: url,
      windowMs: WINDOW_MS,
      windows: WINDOWS,
      commandTimeoutMs: COMMAND_TIMEOUT_MS,
      notedLateMs: NOTED_LATE_MS,
      ...options,
    };
    const outcomes = await runCases({ ...run, cases });
    if (tries === 3 || outcomes.every(({ fellBack }) => fellBack === 0)) return outcomes;
  }
}
