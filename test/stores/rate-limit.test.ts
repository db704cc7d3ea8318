import t from 'tap';
import { runCases, type Case, type Outcome } from '../support/limiter-fleet.ts';
import { redisUrl } from '../support/redis.ts';

/** Stands for the minute, and is long beside what a busy machine does to a process. */
const WINDOW_MS = 6_000;
const WINDOWS = 2;
const COMMAND_TIMEOUT_MS = 750;
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
      t.ok(admitted >= Math.min(0.85 * possible, possible - 4), `${name}: ${admitted} of ${possible}`);
    if (max >= 1_000) t.ok(asked < 0.15 * admitted, `${name}: asked ${asked} times for ${admitted}`);
    t.equal(askedEarly, 0, `${name}: nobody asks before the moment that was named`);
  }
});

/** A machine so busy that Redis seems to be away proves nothing: once more. */
async function runWhileRedisIsUp(url: string, cases: Case[]): Promise<Outcome[]> {
  for (let tries = 1; ; tries++) {
    const run = {
      redisUrl: url,
      windowMs: WINDOW_MS,
      windows: WINDOWS,
      commandTimeoutMs: COMMAND_TIMEOUT_MS,
    };
    const outcomes = await runCases({ ...run, cases });
    if (tries === 3 || outcomes.every(({ fellBack }) => fellBack === 0)) return outcomes;
  }
}
