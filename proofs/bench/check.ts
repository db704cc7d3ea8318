// Goes with the example: src/features/orders
import { readFileSync } from 'node:fs';
import { measureServers, type HttpSide } from './http-sides.ts';
import { compareDrivers } from './drivers.ts';
import { Report } from './report.ts';
import { ratios } from './rounds.ts';
import { PEER_COMMANDS, startAssembled, startBare, startService } from './sides.ts';
import { spread, spreadOf } from './statistics.ts';
import { TENANTS, makeWorld, type World } from './world.ts';

const BUDGETS = new URL('budgets.json', import.meta.url);
/** Many short slices: the interval of a median shrinks with their number, and load comes in waves. */
const PACE = { rounds: 15, seconds: 0.7 };

/** A ratio that may not fall below a bound, or a number that may not pass one. */
interface Measured {
  name: string;
  values: number[];
  atLeast?: number;
  atMost?: number;
}

type Budget = Record<
  'shareOfBareFastify' | 'timesFastifyByHand' | 'shareOfPgAlone' | 'redisCommands',
  number
>;

/**
 * Holds the ratios that matter against proofs/bench/budgets.json in a short run. A ratio is taken within each round, so
 * a machine that is slow or busy slows both of its sides. It fails when the whole interval of its median (see
 * `spreadOf`) lies below the budget: then the median is below it by more than the noise that was measured, with
 * 39 chances of 40. What fails is measured once more, and must fail again: of 1000 checks of a ratio that just
 * holds, fewer than one fails by chance. Resolves to the exit code.
 */
export async function checkBudgets(report: Report, connections: number): Promise<number> {
  const budget = readBudget(report);
  const world = await makeWorld((line) => report.say(line));
  try {
    const failed = judge(report, await measure(world, budget, connections));
    if (failed.length === 0) return 0;
    report.say('\nMeasured once more:');
    const again = judge(report, await measure(world, budget, connections));
    const both = failed.filter((name) => again.includes(name));
    if (both.length > 0) report.say(`\nBelow the budget, twice: ${both.join(', ')}`);
    return both.length > 0 ? 1 : 0;
  } finally {
    await world.stop();
  }
}

/** That of this Node, or of the next older one that has any. */
function readBudget(report: Report): Budget {
  const budgets = JSON.parse(readFileSync(BUDGETS, 'utf8')) as Record<string, Budget>;
  const running = Number.parseInt(process.versions.node, 10);
  const majors = Object.keys(budgets)
    .map(Number)
    .filter((major) => major <= running);
  const major = Math.max(...majors);
  if (!budgets[major]) throw new Error(`proofs/bench/budgets.json has no budget for Node ${running}`);
  report.say(`Budget of Node ${major}`);
  return budgets[major];
}

async function measure(world: World, budget: Budget, connections: number): Promise<Measured[]> {
  const load = { connections, requests: await world.reads(TENANTS) };
  const sides: HttpSide[] = [
    { name: 'bare Fastify', servers: [await startBare(world)], load },
    { name: 'cached authorised read', servers: [await startService(world)], load },
    {
      name: 'Fastify by hand',
      servers: [await startAssembled(world, 'redis')],
      load,
      sends: PEER_COMMANDS,
    },
  ];
  try {
    const [bare, ours, byHand] = await measureServers(sides, { ...PACE, redis: world.redis });
    return [
      {
        // Requests per CPU second, as a share.
        name: 'Hardening costs a known share of bare Fastify, printed by `npm run bench`.',
        values: ratios(ours?.micros, bare?.micros),
        atLeast: budget.shareOfBareFastify,
      },
      {
        name: 'requests per CPU second, times Fastify by hand',
        values: ratios(ours?.micros, byHand?.micros),
        atLeast: budget.timesFastifyByHand,
      },
      {
        name: 'database reads per CPU second, share of pg alone',
        values: await compareDrivers(new Report(), world, PACE.rounds),
        atLeast: budget.shareOfPgAlone,
      },
      {
        name: 'Redis commands a request',
        values: [ours?.redisCommands ?? NaN],
        atMost: budget.redisCommands,
      },
    ];
  } finally {
    for (const { servers } of sides) for (const server of servers) await server.stop();
  }
}

/** Prints a line each, and returns the names of those outside of their bounds. */
function judge(report: Report, measured: Measured[]): string[] {
  return measured.flatMap(({ name, values, atLeast = -Infinity, atMost = Infinity }) => {
    const found = spreadOf(values);
    const holds = found.high >= atLeast && found.low <= atMost;
    const bound = atLeast > -Infinity ? `at least ${atLeast}` : `at most ${atMost}`;
    const interval = `interval ${found.low.toFixed(3)}–${found.high.toFixed(3)}`;
    report.say(`${holds ? 'ok    ' : 'FAILED'} ${name}: ${spread(found, 3)}, ${interval}, ${bound}`);
    return holds ? [] : [name];
  });
}
