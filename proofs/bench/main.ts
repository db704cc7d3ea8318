// Goes with the example: src/features/orders
import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { profileRead } from './profile.ts';
import type { Settings } from './read.ts';
import { Report } from './report.ts';
import { MAIN, makeWorld, type World } from './world.ts';

/**
 * `npm run bench [-- PART…]`: what the hardened path costs, and its parts; all unless some are named. All sides
 * of a comparison run in one go and take turns in slices, so that whatever else the machine does hits all of
 * them; what counts is the CPU time of the measured process, and the ratio. Needs `npm run build` before it, and
 * a Redis (REDIS_URL, or `redis-server` on PATH).
 *
 * `--save` keeps the results in proofs/bench/results and writes the table of docs/performance.md anew. `--check` holds
 * the ratios that matter against proofs/bench/budgets.json. `--profile` shows where the time of a cached read goes.
 */
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '15' },
    seconds: { type: 'string', default: '2' },
    connections: { type: 'string', default: '32' },
    requests: { type: 'string', default: '1000000' },
    save: { type: 'boolean', default: false },
    check: { type: 'boolean', default: false },
    profile: { type: 'boolean', default: false },
  },
});
const settings: Settings = {
  rounds: Number(values.rounds),
  seconds: Number(values.seconds),
  connections: Number(values.connections),
};

/** Those that need the service and its world, then those that do without. */
const WITH_WORLD: Record<string, (report: Report, world: World) => Promise<void>> = {
  read: async (report, world) => (await import('./read.ts')).benchRead(report, world, settings, false),
  peers: async (report, world) => (await import('./read.ts')).benchRead(report, world, settings, true),
  operations: async (report, world) =>
    (await import('./operations.ts')).benchOperations(report, world, settings),
  growth: async (report, world) => (await import('./growth.ts')).benchGrowth(report, world, settings),
  memory: async (report, world) =>
    (await import('./memory.ts')).benchMemory(report, world, settings, Number(values.requests)),
  start: async (report, world) => (await import('./start.ts')).benchStart(report, world),
};
const ALONE: Record<string, (report: Report) => Promise<void>> = {
  metrics: async (report) => (await import('./metrics.ts')).benchMetrics(report),
  limits: async (report) => (await import('../limits/side.ts')).benchLimits(report),
  keys: async (report) => (await import('./keys.ts')).benchKeys(report),
  cache: async (report) => (await import('./cache.ts')).benchCache(report),
};
const PARTS = Object.keys({ ...WITH_WORLD, ...ALONE });

const unknown = positionals.filter((part) => !PARTS.includes(part));
if (unknown.length > 0) {
  console.error(`No such part: ${unknown.join(', ')}. There are: ${PARTS.join(', ')}.`);
  process.exit(2);
}
if (!existsSync(MAIN)) {
  console.error('dist/main.js is missing: run "npm run build" first');
  process.exit(2);
}
process.exitCode = await run();
process.exit();

async function run(): Promise<number> {
  const { rounds, seconds, connections } = settings;
  const report = new Report();
  report.say(`Node ${process.version}, ${connections} connections`);
  if (values.check) return (await import('./check.ts')).checkBudgets(report, connections);
  report.say(`${rounds} rounds of ${seconds} s a side, in turns`);
  // The comparison with peers holds the one without.
  const wanted =
    positionals.length > 0 ? positionals : PARTS.filter((part) => part !== 'read' && !values.profile);
  for (const part of wanted) await ALONE[part]?.(report);
  const inWorld = wanted.filter((part) => part in WITH_WORLD);
  if (inWorld.length === 0 && !values.profile && !values.save) return 0;
  const world = await makeWorld((line) => report.say(line));
  try {
    if (values.profile) await profileRead(report, world, { connections, seconds: 5 * seconds });
    for (const part of inWorld) await WITH_WORLD[part]?.(report, world);
    if (values.save) await (await import('./results.ts')).saveResults(report, world, settings);
  } finally {
    await world.stop();
  }
  return 0;
}
