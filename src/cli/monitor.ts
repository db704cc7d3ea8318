import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { isEntry } from './environment.ts';
import { growthInTenMinutes, type Point } from './monitor-growth.ts';
import {
  compareSamples,
  describe,
  HEADING,
  readSamples,
  type Period,
  type Sample,
} from './monitor-samples.ts';

const USAGE = `Usage: npm run monitor -- [options]

Watches all processes of the service and prints a line for each sample. Ends with 2, and says why, when one of
these holds for three samples in a row: more than 5 % of the responses are 5xx, P95 is above 10 s, connections to
the database fail or a process has none, the cache is away everywhere, no process responds.

  --url URL          the internal listener; all addresses of its name are read (http://127.0.0.1:9090). Processes
                     on several ports: --url again for each
  --seconds N        how long (300; 0: until it is interrupted)
  --interval N       seconds between two samples (5), or less where three would not fit into the time
  --error-percent N  (5)
  --p95-seconds N    (10)
  --growth-mb N      ends with 2, too, when the memory of a process grew by more than so many MB in ten minutes,
                     after the first fifth of the time; for a soak`;

const SAMPLES_TO_TRIP = 3;
/** Fewer requests than that say nothing about a share or a percentile. */
const FEWEST_REQUESTS = 20;

interface Limits {
  errorPercent: number;
  p95Seconds: number;
}

/** Why a release should be taken back; undefined when all is well. */
function findTrigger(
  samples: Map<string, Sample>,
  period: Period,
  { errorPercent, p95Seconds }: Limits,
): string | undefined {
  const all = [...samples.values()].map(({ status }) => status);
  if (all.length === 0) return 'no process responds';
  const lost = all.filter(({ database }) => database.state !== 'connected').length;
  if (lost === all.length) return 'the database is away';
  if (lost > 0) return `${lost} of ${all.length} processes cannot reach the database`;
  if (period.connectionErrors > 0) return `${period.connectionErrors} connections to the database failed`;
  if (all.every(({ redis }) => redis.cache === 'disconnected')) return 'the cache is away';
  if (period.requests < FEWEST_REQUESTS) return undefined;
  const percent = (100 * period.failures) / period.requests;
  if (percent > errorPercent) return `${percent.toFixed(1)} % of the responses are 5xx`;
  if (period.p95 !== undefined && period.p95 > p95Seconds) return `P95 is above ${p95Seconds} s`;
  return undefined;
}

/** Runs the command and returns its exit code: 0 all well, 1 wrong use, 2 a trigger tripped. */
export async function runMonitor(argv: string[], say: (line: string) => void): Promise<number> {
  let options: ReturnType<typeof readOptions>;
  try {
    options = readOptions(argv);
  } catch (error) {
    say(`${(error as Error).message}\n\n${USAGE}`);
    return 1;
  }
  const trigger = await watch(options, say);
  say(trigger === undefined ? 'all well' : `TRIPPED: ${trigger}`);
  return trigger === undefined ? 0 : 2;
}

/** Resolves to what tripped, or to undefined when the time is over. */
async function watch(
  { urls, seconds, limits, growthMb, ...options }: ReturnType<typeof readOptions>,
  say: (line: string) => void,
): Promise<string | undefined> {
  // However short: with fewer samples than trip it, a watch would find every release good.
  const interval = seconds === 0 ? options.interval : Math.min(options.interval, seconds / SAMPLES_TO_TRIP);
  const endsAt = seconds === 0 ? Infinity : performance.now() + 1000 * seconds;
  const memory = new Map<string, Point[]>();
  let before = await readSamples(urls);
  let beforeMs = performance.now();
  let tripped = 0;
  say(HEADING);
  for (let count = 0; count < SAMPLES_TO_TRIP || performance.now() < endsAt; count += 1) {
    await delay(1000 * Math.min(interval, Math.max(0.1, (endsAt - performance.now()) / 1000)));
    const samples = await readSamples(urls);
    const nowMs = performance.now();
    const period = compareSamples(before, samples);
    say(describe(samples, period, (nowMs - beforeMs) / 1000));
    [before, beforeMs] = [samples, nowMs];
    for (const [place, { status }] of samples) {
      const points = memory.get(place) ?? [];
      points.push({ x: nowMs, y: status.process.rss_bytes });
      memory.set(place, points);
    }
    const trigger = findTrigger(samples, period, limits);
    tripped = trigger === undefined ? 0 : tripped + 1;
    if (tripped === SAMPLES_TO_TRIP) return trigger;
  }
  if (growthMb === undefined) return undefined;
  const grownMb = growthInTenMinutes([...memory.values()]) / 1e6;
  const text = `memory grew by ${grownMb.toFixed(2)} MB in ten minutes`;
  if (grownMb > growthMb) return text;
  say(text);
  return undefined;
}

/** @throws Error that names the option */
function readOptions(args: string[]) {
  const { values } = parseArgs({
    args,
    options: {
      url: { type: 'string', multiple: true, default: ['http://127.0.0.1:9090'] },
      seconds: { type: 'string', default: '300' },
      interval: { type: 'string', default: '5' },
      'error-percent': { type: 'string', default: '5' },
      'p95-seconds': { type: 'string', default: '10' },
      'growth-mb': { type: 'string' },
    },
  });
  const number = (name: Exclude<keyof typeof values, 'url'>, least: number) => {
    const value = Number(values[name]);
    if (values[name] === '' || !(value >= least))
      throw new Error(`--${name} must be a number of at least ${least}`);
    return value;
  };
  if (!values.url.every((url) => URL.canParse(url)))
    throw new Error('--url must be such as http://127.0.0.1:9090');
  return {
    urls: values.url.map((url) => new URL(url)),
    seconds: number('seconds', 0),
    interval: number('interval', 0.1),
    limits: { errorPercent: number('error-percent', 0), p95Seconds: number('p95-seconds', 0) },
    growthMb: values['growth-mb'] === undefined ? undefined : number('growth-mb', 0),
  };
}

if (isEntry(import.meta.url)) {
  process.exitCode = await runMonitor(process.argv.slice(2), (line) => console.log(line));
}
