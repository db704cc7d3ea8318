import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { mostInAnyWindow, type Admission } from './admissions.ts';
import type { KeyReport, LimiterPlan } from './limiter-process.ts';
import { forgetProcess, registerProcess } from './processes.ts';

const PROGRAM = new URL('limiter-process.ts', import.meta.url).pathname;

/** One process of a fleet that shares limits through Redis. */
export interface LimiterProcess {
  start(): void;
  /** SIGKILL: what it holds is lost, what it admitted is known. */
  kill(): Promise<void>;
  /** By key; undefined for a process that was killed. */
  stop(): Promise<Record<string, KeyReport> | undefined>;
  /** By key, on the clock of the machine. */
  admissions(): Map<string, Admission[]>;
}

/** Starts a process that is connected to Redis and waits for start(). */
export async function startLimiterProcess(plan: Omit<LimiterPlan, 'recordFile'>): Promise<LimiterProcess> {
  const folder = mkdtempSync(join(tmpdir(), 'limiter-'));
  const recordFile = join(folder, 'admitted');
  const child = fork(PROGRAM, [JSON.stringify({ ...plan, recordFile })], {
    execArgv: ['--import', import.meta.resolve('tsx')],
  });
  const pid = child.pid ?? 0;
  registerProcess(pid, 'limiter-process', folder);
  const ended = once(child, 'exit');
  await Promise.race([
    once(child, 'message'),
    ended.then(() => {
      throw new Error('A limiter process did not start');
    }),
  ]);
  let killed = false;
  let found = new Map<string, Admission[]>();

  async function end(): Promise<void> {
    await ended;
    found = readRecords(recordFile, plan);
    forgetProcess(pid);
    rmSync(folder, { recursive: true });
  }

  return {
    start: () => void child.send('start'),
    async kill() {
      killed = true;
      child.kill('SIGKILL');
      await end();
    },
    async stop() {
      if (killed) return undefined;
      const reported = once(child, 'message');
      child.send('stop');
      const [reports] = await reported;
      await end();
      return reports;
    },
    admissions: () => found,
  };
}

function readRecords(file: string, { keys }: Pick<LimiterPlan, 'keys'>): Map<string, Admission[]> {
  const bytes = readFileSync(file);
  const numbers = new Float64Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  const byKey = new Map<string, Admission[]>(keys.map(({ name }) => [name, []]));
  for (let i = 0; i + 1 < numbers.length; i += 2) {
    const name = keys[numbers[i] ?? 0]?.name ?? '';
    byKey.get(name)?.push({ atMs: numbers[i + 1] ?? 0, cost: 1 });
  }
  return byKey;
}

/** One limit that some of the processes are offered a multiple of. */
export interface Case {
  name: string;
  max: number;
  load: number;
  processes: number;
  /** How the load is divided; evenly when it is not said. */
  parts?: number[];
}

export interface Outcome extends Case {
  /** Of the time that was looked at: what could have been admitted, and was. */
  possible: number;
  admitted: number;
  mostInAWindow: number;
  offered: number;
  refused: number;
  asked: number;
  askedEarly: number;
  longestResetMs: number;
  fellBack: number;
}

export interface FleetRun {
  redisUrl: string;
  windowMs: number;
  windows: number;
  commandTimeoutMs: number;
  cases: Case[];
  expectedReplicas?: number;
  /** An admission is noted after it was decided: so long a process may have stood still in between. */
  notedLateMs?: number;
}

/** Runs all cases at once: each process serves the cases that have so many. */
export async function runCases(run: FleetRun): Promise<Outcome[]> {
  const { redisUrl, windowMs, commandTimeoutMs, windows, cases, notedLateMs = 0, expectedReplicas = 1 } = run;
  const largest = Math.max(...cases.map(({ processes }) => processes));
  const plans = Array.from({ length: largest }, (_, index) => {
    const keys = cases
      .filter(({ processes }) => index < processes)
      .map(({ name, max, load, processes, parts = Array.from({ length: processes }, () => 1) }) => {
        const part = (parts[index] ?? 0) / parts.reduce((a, b) => a + b);
        return { name, max, perSecond: (max * load * part * 1000) / windowMs };
      });
    return { redisUrl, windowMs, commandTimeoutMs, expectedReplicas, keys };
  });
  const fleet = await Promise.all(plans.map(startLimiterProcess));
  for (const process of fleet) process.start();
  await delay(windows * windowMs);
  const reports = await Promise.all(fleet.map((process) => process.stop()));
  return cases.map((each) => {
    const own = reports.flatMap((report) => report?.[each.name] ?? []);
    const admissions = fleet.flatMap((process) => process.admissions().get(each.name) ?? []);
    const sum = (name: keyof KeyReport) => own.reduce((total, report) => total + report[name], 0);
    return {
      ...each,
      offered: sum('offered'),
      refused: sum('refused'),
      possible: Math.min(sum('offered'), each.max * windows),
      admitted: admissions.length,
      mostInAWindow: mostInAnyWindow(admissions, windowMs - notedLateMs),
      asked: sum('asked'),
      askedEarly: sum('askedEarly'),
      fellBack: sum('fellBack'),
      longestResetMs: Math.max(...own.map(({ longestResetMs }) => longestResetMs)),
    };
  });
}
