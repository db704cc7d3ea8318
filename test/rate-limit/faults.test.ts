import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { createMetrics } from '../../src/observability/metrics.ts';
import { LEASE_SCRIPT, createLeaseRunner } from '../../src/rate-limit/lease-script.ts';
import type { RunScript } from '../../src/rate-limit/lease.ts';
import { createRateLimiter } from '../../src/rate-limit/limiter.ts';
import { openRedis, type RedisHandle } from '../../src/redis/redis.ts';
import { mostInAnyWindow, type Admission } from '../support/admissions.ts';
import { lineCollector } from '../support/app.ts';
import { startRedis, type RedisServer } from '../support/redis.ts';
import { startStopwatch } from '../support/stopwatch.ts';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts';
import { until } from '../support/until.ts';

const WINDOW_MS = 1_500;
const LIMIT = 120;
const PROCESSES = 2;
const SHARE = LIMIT / PROCESSES;
const COMMAND_TIMEOUT_MS = 150;
const TICK_MS = 10;
const OFFSET_KEY = 'offset-seconds';

interface Fault {
  name: string;
  /** Fails each question, or lets Redis forget. */
  kind: 'away' | 'forgets';
  movesClock?: boolean;
  /** Nothing is answered in time: no request is to find that out again. */
  silent?: boolean;
  happen(place: Place): unknown;
  heal?(place: Place): unknown;
}

interface Place {
  redis: RedisServer;
  proxy: TcpProxy;
  /** A connection that bypasses the proxy. */
  admin: Redis;
}

const faults: Fault[] = [
  {
    name: 'refused, and restarted empty',
    kind: 'away',
    happen: ({ redis }) => redis.stop(),
    heal: ({ redis }) => redis.start(),
  },
  {
    name: 'cut off without a word',
    kind: 'away',
    silent: true,
    happen: ({ proxy }) => proxy.cut(),
    heal: ({ proxy }) => proxy.mend(),
  },
  {
    name: 'stopped while connected',
    kind: 'away',
    silent: true,
    happen: ({ redis }) => redis.freeze(),
    heal: ({ redis }) => redis.thaw(),
  },
  {
    name: 'answering too late',
    kind: 'away',
    silent: true,
    happen: ({ proxy }) => (proxy.delayMs = 3 * COMMAND_TIMEOUT_MS),
    heal: ({ proxy }) => (proxy.delayMs = 0),
  },
  {
    name: 'out of memory',
    kind: 'away',
    happen: ({ admin }) => admin.config('SET', 'maxmemory', '1'),
    heal: ({ admin }) => admin.config('SET', 'maxmemory', '0'),
  },
  {
    name: 'a replica that takes no writes',
    kind: 'away',
    happen: ({ admin }) => admin.replicaof('127.0.0.1', '1'),
    heal: ({ admin }) => admin.replicaof('NO', 'ONE'),
  },
  { name: 'flushed', kind: 'forgets', happen: ({ admin }) => admin.flushall() },
  ...[1, 30, 3_600, -1, -30, -3_600].map((seconds) => ({
    name: `its clock set ${seconds > 0 ? 'ahead' : 'back'} by ${Math.abs(seconds)} s`,
    kind: 'forgets' as const,
    movesClock: true,
    happen: ({ admin }: Place) => admin.set(OFFSET_KEY, seconds),
  })),
];

t.test(
  "Without Redis no request fails and no limit disappears: each process holds its share (limit / expected replicas), says so in header, body and metric, and comes back by itself within a second of Redis' return. One slow answer of Redis changes nothing for keys that it did not concern.",
  async (t) => {
    if (!(await startRedis(t))) return;
    const runs: Promise<{ fault: Fault; run: Awaited<ReturnType<typeof runFault>> }>[] = [];
    for (const fault of faults) runs.push(runFault(t, fault).then((run) => ({ fault, run })));
    for (const { fault, run } of await Promise.all(runs)) {
      await t.test(fault.name, async (t) => {
        const { faultAt, healedAt, processes } = run;
        for (const { latencies, even, logs, fellBackAt, askedAt } of processes) {
          // Of those that this machine did not delay itself.
          const undisturbed = latencies.filter(({ lostMs }) => lostMs < 40);
          const slowest = Math.max(...undisturbed.map(({ ms }) => ms));
          t.ok(undisturbed.length > 100, `${undisturbed.length} of ${latencies.length} were undisturbed`);
          t.ok(slowest < COMMAND_TIMEOUT_MS + 50, `the slowest took ${slowest} ms`);
          const told = logs.filter(({ message }) => /limits are kept per process/.test(String(message)));
          // A clock that is set back counts too long, which needs no word.
          if (!fault.name.includes('back')) t.ok(told.length === 1 || told.length === 2, 'a line says so');
          if (fault.kind === 'away') t.ok(fellBackAt.length > 10, `${fellBackAt.length} requests fell back`);
          const waited = askedAt.filter((atMs) => atMs > faultAt + 1_000 && atMs < healedAt);
          if (fault.silent) t.equal(waited.length, 0, 'nobody waits for it once it is known');
          const noticed = even.filter(({ atMs }) => atMs > faultAt + 1_000);
          if (fault.kind === 'away') {
            const during = noticed.filter(({ atMs }) => atMs < healedAt);
            t.ok(mostInAnyWindow(during, WINDOW_MS) <= SHARE, 'the share of one process');
            t.ok(during.length >= SHARE, `it admits ${during.length} meanwhile`);
          }
        }
        const most = (admissions: Admission[]) => mostInAnyWindow(admissions, WINDOW_MS);
        const all = (name: 'even' | 'uneven') => processes.flatMap((process) => process[name]);
        const since = all('even').filter(({ atMs }) => atMs > faultAt + 1_000);
        // A process that had more than its share when it happened, as one may on a busy machine, leaves the other its own.
        const held = processes
          .map(({ even }) => Math.max(SHARE, most(even.filter(({ atMs }) => atMs < faultAt))))
          .reduce((a, b) => a + b);
        // One that falls back by itself, as on a busy machine, has its share beside what the other takes from Redis.
        const slack = (before: number) =>
          processes.some(({ fellBackAt: [first = Infinity] }) => first < before) ? LIMIT : 0.1 * LIMIT;
        const [atAll, beforehand] = fault.kind === 'away' ? [0, faultAt] : [Infinity, Infinity];
        t.ok(most(since) <= LIMIT + slack(atAll), `no burst on the way back: at most ${most(since)}`);
        t.ok(
          most(all('even')) <= held + slack(beforehand),
          `nor before: at most ${most(all('even'))} of ${held}`,
        );
        t.ok(most(all('uneven')) <= 2 * LIMIT, `never twice the limit: at most ${most(all('uneven'))}`);
      });
    }
  },
);

/** Twice the limit is asked for, before the fault, meanwhile and after. */
async function runFault(t: Test, fault: Fault) {
  const redis = (await startRedis(t)) as RedisServer;
  const proxy = await startTcpProxy(t, redis.port);
  const admin = new Redis(redis.port);
  admin.on('error', () => undefined);
  t.teardown(() => admin.disconnect());
  const place = { redis, proxy, admin };
  const url = `redis://127.0.0.1:${proxy.port}`;
  const processes = Array.from({ length: PROCESSES }, () => startLimiter(t, url, fault.movesClock));
  for (const { ready } of processes) await until('Redis is connected', ready);

  const at = (index: number) => processes[index] as (typeof processes)[number];
  let nth = 0;
  let busy = at(0);
  let offered: Promise<unknown> = Promise.resolve();
  const startedAt = performance.now();
  /** What is due by now; resolves when all of it so far is decided. */
  const offer = () => {
    const due = (2 * LIMIT * (performance.now() - startedAt)) / WINDOW_MS;
    for (; nth < due; nth += 1)
      offered = Promise.all([offered, at(nth % PROCESSES).request('even'), busy.request('uneven')]);
    return offered;
  };
  const timer = setInterval(() => void offer(), TICK_MS);
  await delay(1.5 * WINDOW_MS);
  const faultAt = performance.now();
  await fault.happen(place);
  busy = at(1);
  await delay(2.5 * WINDOW_MS);
  // What a machine that stood still is behind with belongs to this time, too.
  await offer();
  const healedAt = performance.now();
  await fault.heal?.(place);
  await delay(2.5 * WINDOW_MS);
  const askedAgain = ({ fellBackAt }: (typeof processes)[number]) =>
    performance.now() - (fellBackAt.at(-1) ?? -Infinity) > 2 * COMMAND_TIMEOUT_MS;
  await until('every process asks Redis again', () => processes.every(askedAgain));
  clearInterval(timer);
  return { faultAt, healedAt, processes };
}

function startLimiter(t: Test, url: string, movesClock = false) {
  const logs: Record<string, unknown>[] = [];
  const log = pino({ messageKey: 'message' }, lineCollector(logs));
  const metrics = createMetrics('test');
  const redis = openRedis({ url, commandTimeoutMs: COMMAND_TIMEOUT_MS, role: 'limits' }, { log, metrics });
  const process = {
    logs,
    fellBackAt: [] as number[],
    /** When it was asked for what it seemed to be there for. */
    askedAt: [] as number[],
    latencies: [] as { ms: number; lostMs: number }[],
    even: [] as Admission[],
    uneven: [] as Admission[],
    ready: redis.ready,
    request,
  };
  const run = movesClock ? runWithMovingClock(redis) : createLeaseRunner(redis);
  const limiter = createRateLimiter({
    run: (...question) => {
      if (redis.state() !== 'disconnected') process.askedAt.push(performance.now());
      return run(...question);
    },
    commandTimeoutMs: COMMAND_TIMEOUT_MS,
    expectedReplicas: PROCESSES,
    log,
    metrics: Object.assign(metrics, {
      rateLimitFallback: { inc: () => process.fellBackAt.push(performance.now()) },
    }),
  });
  t.teardown(async () => {
    await limiter.close();
    await redis.close();
  });
  const openLease = limiter.rule('fault', WINDOW_MS);

  async function request(key: 'even' | 'uneven'): Promise<void> {
    const from = performance.now();
    const stopwatch = startStopwatch();
    const found = limiter.take([openLease(key, LIMIT)], 1);
    const { admitted } = found instanceof Promise ? await found : found;
    process.latencies.push(stopwatch());
    if (admitted) process[key].push({ fromMs: from, atMs: performance.now(), cost: 1 });
  }

  return process;
}

/** The script on a clock that the test sets ahead and back: libfaketime and the jemalloc of redis-server exclude each other. */
function runWithMovingClock({ client, ready }: RedisHandle): RunScript {
  const lua = `
local function time()
  local t = redis.call('time')
  return { t[1] + (redis.call('get', '${OFFSET_KEY}') or 0), t[2] }
end
${LEASE_SCRIPT.replace("redis.call('time')", 'time()')}`;
  return async (id, args) => {
    if (!ready()) throw new Error('Redis is not connected');
    return (await client.eval(lua, 1, id, ...args)) as number[];
  };
}
