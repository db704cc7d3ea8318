import { spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import { runCases, type Case } from '../../test/support/limiter-fleet.ts';

/**
 * `npm run test:limits`: the limits over the true minute, in about five of them. Needs a Redis that does
 * nothing else, by default on the usual port: `npm run test:limits -- --redis redis://127.0.0.1:6379/15`.
 * Ends with status 1 when a window held more than its limit, or when another promise was not kept.
 */
const { values } = parseArgs({
  options: {
    redis: { type: 'string', default: 'redis://127.0.0.1:6379/15' },
    windows: { type: 'string', default: '3' },
    runs: { type: 'string', default: '1000' },
  },
});
const WINDOW_MS = 60_000;
const LOADS = [0.5, 0.9, 2, 5];
const say = (line: string) => console.log(line);

const cases: Case[] = [1, 3, 5].flatMap((processes) =>
  [5, 20, 100, 1_000, 100_000].flatMap((max) =>
    LOADS.map((load) => ({ name: `${max} x ${load} on ${processes}`, max, load, processes })),
  ),
);
/** Twelve keys that are offered less than their limit, and come unevenly to three processes. */
const uneven: Case[] = Array.from({ length: 12 }, (_, index) => {
  return { name: `uneven ${index}`, max: 300, load: 0.84, processes: 3, parts: [12 - index, 4, 1] };
});
const run = {
  redisUrl: values.redis,
  windowMs: WINDOW_MS,
  windows: Number(values.windows),
  commandTimeoutMs: 1_000,
};
const outcomes = (
  await Promise.all([runCases({ ...run, cases }), runCases({ ...run, cases: uneven, expectedReplicas: 3 })])
).flat();

let headed = false;
let broken = 0;
for (const outcome of outcomes) {
  const {
    max,
    load,
    processes,
    parts,
    admitted,
    refused,
    possible,
    mostInAWindow,
    asked,
    askedEarly,
    fellBack,
  } = outcome;
  const each = asked / admitted;
  const faults = [
    mostInAWindow > max && 'over the limit',
    load > 1 &&
      admitted < Math.min(0.95 * possible, max < 100 ? possible - 2 * Number(values.windows) : Infinity) &&
      'too few',
    max >= 1_000 && each >= 0.1 && 'too many questions',
    parts !== undefined && refused > 0 && 'refused below the limit',
    askedEarly > 0 && 'asked before the moment',
  ].filter(Boolean);
  broken += faults.length;
  const cells = {
    limit: max,
    load,
    processes,
    admitted,
    of: possible,
    refused,
    'most in a minute': mostInAWindow,
    'questions each': each.toFixed(4),
    early: askedEarly,
    'fell back': fellBack,
  };
  const line = (texts: (string | number)[]) =>
    texts.map((text, index) => String(text).padStart(Math.max(10, Object.keys(cells)[index]?.length ?? 0)));
  if (!headed) say(line(Object.keys(cells)).join(' '));
  headed = true;
  say(`${line(Object.values(cells)).join(' ')}  ${faults.join(', ')}`);
}

const properties = spawnSync('npx', ['tap', 'test/rate-limit/lease.property.test.ts', '--timeout=900'], {
  stdio: 'inherit',
  env: { ...process.env, LIMITS_RUNS: values.runs },
});
if (broken > 0 || properties.status !== 0) process.exitCode = 1;
