import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { isEntry } from './environment.ts';
import { createGrowth } from './monitor-growth.ts';
import { compareSamples, readSamples, type Period, type Sample } from './monitor-samples.ts';
import { describe, HEADING } from './monitor-table.ts';

const USAGE = `Usage: npm run monitor -- [options]

Watches all processes of the service and prints a line for each look. Ends with 2, and says why, when one of
these holds for three looks in a row: more than 5 % of the answers are 5xx, P95 is above 10 s, connections to the
database fail or a process has none, the cache is away everywhere, nobody answers.

  --url URL          the internal listener; all addresses of its name are asked (http://127.0.0.1:9090). Processes
                     on several ports: --url again for each
  --seconds N        how long (300; 0: until it is interrupted)
  --interval N       seconds between two looks (5), or less where three looks would not fit into the time
  --error-percent N  (5)
  --p95-seconds N    (10)
  --growth-mb N      ends with 2, too, when the memory of a process grew by more than so many MB in ten minutes,
                     after the first fifth of the time; for a soak`;

const LOOKS_TO_TRIP = 3;
/** Fewer answers than that say nothing about a share or a percentile. */
const FEWEST_REQUESTS = 20;

interface Limits {
  errorPercent: number;
  p95Seconds: number;
}

/** Why a release should be taken back, from one look; undefined when all is well. */
function findTrigger(
  samples: Map<string, Sample>,
  period: Period,
  { errorPercent, p95Seconds }: Limits,
): string | undefined {
  const all = [...samples.values()];
  if (all.length === 0) return 'no process answers';
  const lost = all.filter(({ database }) => database !== 'connected').length;
  if (lost === all.length) return 'the database is away';
  if (lost > 0) return `${lost} of ${all.length} processes cannot reach the database`;
  if (period.connectionErrors > 0) return `${period.connectionErrors} connections to the database failed`;
  if (all.every(({ cache }) => cache === 'disconnected')) return 'the cache is away';
  if (period.requests < FEWEST_REQUESTS) return undefined;
  const percent = (100 * period.failures) / period.requests;
  if (percent > errorPercent) return `${percent.toFixed(1)} % of the answers are 5xx`;
  if (period.p95 !== undefined && period.p95 > p95Seconds) return `P95 is above ${p95Seconds} s`;
  return undefined;
}

/** Runs the command and returns its exit code: 0 all well, 1 wrong use, 2 a trigger tripped. */
export async function runMonitor(argv: string[], say: (line: string) => void): Promise<number> {
  const options = readOptions(argv);
  if (typeof options === 'string') {
    say(`${options}\n\n${USAGE}`);
    return 1;
  }
  const { urls, seconds, limits, growthMb } = options;
  // However short: with fewer looks than trip it, a watch would find every release good.
  const interval = seconds === 0 ? options.interval : Math.min(options.interval, seconds / LOOKS_TO_TRIP);
  const endsAt = seconds === 0 ? Infinity : performance.now() + 1000 * seconds;
  let before = await readSamples(urls);
  let lookedAt = performance.now();
  let tripped = 0;
  const growth = createGrowth();
  say(HEADING);
  for (let looks = 0; looks < LOOKS_TO_TRIP || performance.now() < endsAt; looks += 1) {
    await delay(1000 * Math.min(interval, Math.max(0.1, (endsAt - performance.now()) / 1000)));
    const samples = await readSamples(urls);
    const period = compareSamples(before, samples);
    const now = performance.now();
    say(describe(samples, period, (now - lookedAt) / 1000));
    lookedAt = now;
    growth.add(now, samples);
    const trigger = findTrigger(samples, period, limits);
    tripped = trigger === undefined ? 0 : tripped + 1;
    if (tripped === LOOKS_TO_TRIP) {
      say(`TRIPPED: ${trigger}`);
      return 2;
    }
    before = samples;
  }
  if (growthMb !== undefined) {
    const grownMb = growth.mbInTenMinutes();
    const text = `memory grew by ${grownMb.toFixed(2)} MB in ten minutes`;
    if (grownMb > growthMb) {
      say(`TRIPPED: ${text}`);
      return 2;
    }
    say(text);
  }
  say('all well');
  return 0;
}

function readOptions(argv: string[]) {
  try {
    const { values } = parseArgs({
      args: argv,
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
  } catch (error) {
    return (error as Error).message;
  }
}

if (isEntry(import.meta.url)) {
  process.exitCode = await runMonitor(process.argv.slice(2), (line) => console.log(line));
}
