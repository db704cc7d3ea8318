import { writeSync, openSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { createMetrics } from '../../src/observability/metrics.ts';
import { createLeaseRunner } from '../../src/rate-limit/lease-script.ts';
import { createRateLimiter } from '../../src/rate-limit/limiter.ts';
import { openRedis } from '../../src/redis/redis.ts';

/** A key that is asked for `perSecond` times a second by this process. */
export interface OfferedKey {
  name: string;
  max: number;
  perSecond: number;
}

export interface LimiterPlan {
  redisUrl: string;
  windowMs: number;
  commandTimeoutMs: number;
  expectedReplicas: number;
  keys: OfferedKey[];
  /** Gets two doubles for each admitted request: index of the key, ms of the clock of the machine. */
  recordFile: string;
}

/** What one process saw of one key. */
export interface KeyReport {
  offered: number;
  admitted: number;
  refused: number;
  /** Questions to Redis, and those before the moment that a refusal named. */
  asked: number;
  askedEarly: number;
  longestResetMs: number;
  /** Decided without Redis, because it was too slow. */
  fellBack: number;
}

const TICK_MS = 5;
/** So many requests wait at once, as a server has so many connections; the others come later. */
const MOST_WAITING = 200;

/**
 * A process that shares limits with others: sends 'ready', offers requests from 'start' until 'stop', then
 * sends its reports. The plan is its first argument, as JSON.
 */
const plan: LimiterPlan = JSON.parse(process.argv[2] ?? '');
const log = pino({ level: 'warn' }, pino.destination(2));
const metrics = createMetrics('test');
const redis = openRedis(
  { url: plan.redisUrl, commandTimeoutMs: plan.commandTimeoutMs, role: 'limits' },
  { log, metrics },
);
const runScript = createLeaseRunner(redis);
const reports = new Map<string, KeyReport & { quietUntil: number }>();
for (const { name } of plan.keys) {
  const empty = {
    offered: 0,
    admitted: 0,
    refused: 0,
    asked: 0,
    askedEarly: 0,
    longestResetMs: 0,
    fellBack: 0,
  };
  reports.set(name, { ...empty, quietUntil: 0 });
}
let fellBack = 0;
let waiting = 0;
const limiter = createRateLimiter({
  run: (id, args) => {
    const report = reports.get(id.slice(id.indexOf(':') + 1));
    if (report) {
      report.asked += 1;
      if (performance.now() < report.quietUntil) report.askedEarly += 1;
    }
    return runScript(id, args);
  },
  commandTimeoutMs: plan.commandTimeoutMs,
  expectedReplicas: plan.expectedReplicas,
  log,
  metrics: Object.assign(metrics, { rateLimitFallback: { inc: () => (fellBack += 1) } }),
});
const openLease = limiter.rule('proof', plan.windowMs);
const file = openSync(plan.recordFile, 'w');
let records: number[] = [];
let timer: NodeJS.Timeout | undefined;

async function request(index: number, { name, max }: OfferedKey): Promise<void> {
  const report = reports.get(name);
  if (!report) return;
  report.offered += 1;
  const before = fellBack;
  const askedAt = performance.now();
  const found = limiter.take([openLease(name, max)], 1);
  waiting += 1;
  const verdict = found instanceof Promise ? await found : found;
  waiting -= 1;
  report.fellBack += fellBack - before;
  if (verdict.admitted) {
    records.push(index, Number(process.hrtime.bigint()) / 1e6);
    report.admitted += 1;
    return;
  }
  report.refused += 1;
  report.quietUntil = askedAt + verdict.resetMs - 1;
  report.longestResetMs = Math.max(report.longestResetMs, verdict.resetMs);
}

function save(): void {
  writeSync(file, new Uint8Array(Float64Array.from(records).buffer));
  records = [];
}

function start(): void {
  const startedAt = performance.now();
  const sent = plan.keys.map(() => 0);
  timer = setInterval(() => {
    const seconds = (performance.now() - startedAt) / 1000;
    for (const [index, key] of plan.keys.entries()) {
      for (let due = Math.floor(seconds * key.perSecond) - (sent[index] ?? 0); due > 0; due--) {
        if (waiting >= MOST_WAITING) break;
        sent[index]!++;
        void request(index, key);
      }
    }
    save();
  }, TICK_MS);
}

function stop(): void {
  clearInterval(timer);
  save();
  process.send?.(Object.fromEntries(reports), undefined, undefined, () => process.exit());
}

process.on('message', (message) => {
  if (message === 'start') start();
  if (message === 'stop') stop();
});
while (!redis.ready()) await delay(10);
process.send?.('ready');
