// Goes with the example: src/features/orders
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { runChecks, skipChecks, type Report } from '../stack/report.ts';
import { findTool } from '../../test/support/tools.ts';
import { openEnvironment, type Environment } from './environment.ts';
import { FAULTS, type Fault } from './faults.ts';
import { KINDS, startLoad, type Load, type Sample } from './load.ts';

/** `npm run check:chaos`: see README.md in this folder. */
const { values } = parseArgs({ options: { only: { type: 'string', default: '' } } });

/** A success, what is in the way of it for now, or a create that is still being done. */
const EXPECTED_STATUSES = new Set([200, 201, 409, 503, 504]);
const CACHED_P99_MS = 100;
const NORMAL_WITHIN_MS = 1_000;
const GIVE_UP_MS = 60_000;
const CALM_SECONDS = 3;

const closers: (() => unknown)[] = [];
const close = async () => {
  for (const each of closers.splice(0).toReversed()) await each();
};
const redisProgram = findTool('redis-server') ?? findTool('valkey-server');
process.exitCode = redisProgram
  ? await runChecks((report) => prove(redisProgram, report), close)
  : skipChecks('needs redis-server or valkey-server on PATH (Debian: apt-get install redis-server)');

async function prove(program: string, report: Report): Promise<void> {
  const repositoryDir = fileURLToPath(new URL('../../', import.meta.url));
  const say = (line: string) => console.log(`   ${line}`);
  const environment = await openEnvironment({ repositoryDir, redisProgram: program, closers, say });
  const load = await startLoad(environment);

  await delay(CALM_SECONDS * 1000);
  await report.check('no fault', async () => judge(load.take(), undefined, environment));
  for (const fault of FAULTS.filter(({ name }) => name.includes(values.only)))
    await report.check(fault.name, () => breakOnce(fault, environment, load));

  await report.check('every create was done once', async () => {
    await load.stop();
    return countCreates(load, environment);
  });
}

async function breakOnce(fault: Fault, environment: Environment, load: Load): Promise<string> {
  load.take();
  const end = await fault.begin(environment);
  if (!end) return 'SKIPPED here';
  await delay(fault.seconds * 1000);
  await end();
  const normalAfterMs = await untilNormal(environment, load);
  // What was sent in the fault may be answered now.
  await delay(CALM_SECONDS * 1000);
  return judge(load.take(), normalAfterMs, environment);
}

/** Resolves when every process serves every kind of request again: ms from now. */
async function untilNormal({ services }: Environment, load: Load): Promise<number> {
  const fromMs = performance.now();
  const ofOne = async (index: number) => {
    for (;;) {
      const sentAtMs = performance.now();
      try {
        await load.tryAll(index);
        return sentAtMs - fromMs;
      } catch (error) {
        if (sentAtMs - fromMs > GIVE_UP_MS) throw error;
        await delay(20);
      }
    }
  };
  return Math.max(...(await Promise.all(services.map((_, index) => ofOne(index)))));
}

/** @throws Error that names what does not hold, with the numbers */
function judge(samples: Sample[], normalAfterMs: number | undefined, { services }: Environment): string {
  const cached = samples.filter(({ kind }) => kind === 'cached read');
  const statuses = countBy(samples, ({ status }) => status);
  const longest = KINDS.map((kind) => {
    const ofKind = samples.filter((sample) => sample.kind === kind);
    return `${kind} ${Math.round(Math.max(0, ...ofKind.map(({ ms }) => ms)))}`;
  });
  const row = [
    `statuses ${statuses}`,
    `cached P50 ${percentile(cached, 0.5)} P99 ${percentile(cached, 0.99)} ms`,
    `longest ms: ${longest.join(', ')}`,
    ...(normalAfterMs === undefined ? [] : [`normal after ${Math.round(normalAfterMs)} ms`]),
  ].join('; ');

  const odd = samples.filter(({ status }) => !EXPECTED_STATUSES.has(status));
  const broken = [
    odd.length > 0 && `unexpected: ${countBy(odd, ({ kind, status }) => `${kind} ${status}`)}`,
    cached.some(({ status }) => status !== 200) && `cached reads: ${countBy(cached, ({ status }) => status)}`,
    percentile(cached, 0.99) > CACHED_P99_MS && `cached reads took more than ${CACHED_P99_MS} ms`,
    (normalAfterMs ?? 0) > NORMAL_WITHIN_MS && `not normal within ${NORMAL_WITHIN_MS} ms`,
    ...services.map(({ ended, url }) => ended() !== undefined && `${url} ended with ${ended()}`),
  ].filter((text) => text !== false);
  if (broken.length > 0) throw new Error(`${broken.join('; ')}. ${row}`);
  return row;
}

/** @throws Error when a create was lost or done twice */
async function countCreates(load: Load, { postgres }: Environment): Promise<string> {
  const { rows } = await postgres.admin.query<{ reference: string; id: string }>(
    `select reference, id::text from orders where reference like 'chaos-%'`,
  );
  const stored = new Map(rows.map(({ reference, id }) => [reference, id]));
  const lost = [...load.created].filter(([reference, id]) => stored.get(reference) !== id);
  const uninvited = [...stored.keys()].filter((reference) => !load.attempted.has(reference));
  const { doubled, created, attempted } = load;
  if (lost.length + uninvited.length + doubled.length > 0)
    throw new Error(`${lost.length} lost, ${doubled.length} done twice, ${uninvited.length} never sent`);
  return `${created.size} answered with 201 of ${attempted.size} sent, ${stored.size} rows`;
}

function percentile(samples: Sample[], part: number): number {
  const sorted = samples.map(({ ms }) => ms).toSorted((a, b) => a - b);
  return Math.round(sorted[Math.ceil(part * sorted.length) - 1] ?? 0);
}

function countBy<T>(items: T[], nameOf: (item: T) => number | string): string {
  const counts = new Map<string, number>();
  for (const item of items) counts.set(String(nameOf(item)), (counts.get(String(nameOf(item))) ?? 0) + 1);
  return [...counts].map(([name, count]) => `${name}×${count}`).join(' ');
}
