import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { FAULTS, type Fault } from './faults.ts';
import { firedAt, printReport, resolvedAfterMs, seconds, type Row } from './report.ts';
import { findTools, type DrillTools } from './tools.ts';
import { buildWorld, type World } from './environment.ts';

/**
 * `npm run drill`: breaks one thing after another under a running service, with the project's own rules in a
 * real Prometheus and Alertmanager that run thirty times faster than in production, and shows which alert
 * came after how long, whom it was told, and that it resolved. A fault that stays silent fails.
 */
const FIRES_WITHIN_MS = 60_000;
const RESOLVES_WITHIN_MS = 90_000;

const stopping = new AbortController();
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => stopping.abort());
const startedAtMs = performance.now();
const say = (line: string) => console.log(`${seconds(performance.now() - startedAtMs).padStart(7)}  ${line}`);

const tools = findToolsOrSay();
if (tools) process.exitCode = await drill(tools);

async function drill(programs: DrillTools): Promise<number> {
  const closers: (() => unknown)[] = [];
  try {
    const world = await buildWorld(fileURLToPath(new URL('../../', import.meta.url)), programs, closers, say);
    await within(FIRES_WITHIN_MS, 'the service is well', world.isWell);
    // What a slow start made fire is told to nobody.
    await within(FIRES_WITHIN_MS, 'no alert but the Watchdog fires', () => isCalm(world));
    say('starting Alertmanager');
    await world.startAlertmanager();
    await within(FIRES_WITHIN_MS, 'the Watchdog was delivered', () => isTold(world, 'Watchdog', 'info'));
    await within(FIRES_WITHIN_MS, 'no alert but the Watchdog fires', () => isCalm(world));
    say('everything runs, and the Watchdog arrived: the way from a rule to a person works');

    const rows: Row[] = [];
    for (const fault of FAULTS) rows.push(...(await breakOnce(world, fault)));
    say('waiting until every alert has resolved');
    const quiet = () => rows.every((row) => resolvedAfterMs(world.watch, row) !== undefined);
    await within(RESOLVES_WITHIN_MS, 'every alert has resolved', quiet).catch(sayUnlessStopped);
    return printReport(world.watch, rows) === 0 ? 0 : 1;
  } catch (error) {
    say(stopping.signal.aborted ? 'stopped' : (error as Error).message);
    return 1;
  } finally {
    for (const close of closers.toReversed()) await close();
  }
}

/** Begins the fault, waits until all of its alerts fire and the first was told, and undoes it. */
async function breakOnce(world: World, fault: Fault): Promise<Row[]> {
  say(`${fault.name} …`);
  const beganAtMs = performance.now();
  const undo = await fault.begin(world);
  const begun = fault.alerts.map(([alert, severity], index) => ({
    fault: fault.name,
    alert,
    severity,
    isTold: index === 0,
    beganAtMs,
  }));
  const silent = () => begun.filter((row) => firedAt(world.watch, row) === undefined);
  const told = () => begun.every((row) => !row.isTold || isTold(world, row.alert, row.severity));
  const noticed = () => silent().length === 0 && told();
  try {
    await within(FIRES_WITHIN_MS, `${fault.name} was noticed`, noticed);
    say(`  ${begun.map(({ alert }) => alert).join(', ')} after ${seconds(performance.now() - beganAtMs)}`);
  } catch (error) {
    sayUnlessStopped(error);
    for (const { alert } of silent()) say(`  SILENT: ${alert}`);
  } finally {
    await undo();
  }
  const undoneAtMs = performance.now();
  await within(FIRES_WITHIN_MS, 'the service is well again', world.isWell);
  return begun.map((row) => ({ ...row, undoneAtMs }));
}

function isTold({ watch }: World, name: string, severity: string): boolean {
  return watch.find(name, severity)?.told.at(-1)?.firing ?? false;
}

function isCalm({ watch }: World): boolean {
  // Also what was told of a slow start has to be taken back: the next one is told only once.
  const firing = watch.all().filter(({ changes, told }) => changes.at(-1)?.firing || told.at(-1)?.firing);
  return firing.map(({ name }) => name).join() === 'Watchdog';
}

function findToolsOrSay(): DrillTools | undefined {
  try {
    return findTools();
  } catch (error) {
    const required = process.env.REQUIRE_TOOLS === '1';
    console.error(`${required ? '' : 'SKIPPED: '}${(error as Error).message}`);
    process.exitCode = required ? 1 : 0;
    return undefined;
  }
}

function sayUnlessStopped(error: unknown): void {
  stopping.signal.throwIfAborted();
  say((error as Error).message);
}

/** @throws Error that names `what` when it does not come true in time, and when the drill is told to stop */
async function within(
  timeoutMs: number,
  what: string,
  condition: () => boolean | Promise<boolean>,
): Promise<void> {
  const end = performance.now() + timeoutMs;
  while (!(await condition())) {
    stopping.signal.throwIfAborted();
    if (performance.now() > end) throw new Error(`not within ${seconds(timeoutMs)}: ${what}`);
    await delay(100);
  }
}
