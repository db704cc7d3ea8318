import * as fc from 'fast-check';
import { env } from 'node:process';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { changeLimit, openLease } from '../../src/rate-limit/lease-state.ts';
import { createLeases } from '../../src/rate-limit/lease.ts';
import {
  createRateLimiter,
  type RateLimiterOptions,
  type RateLimitDecision,
} from '../../src/rate-limit/limiter.ts';
import { mostInAnyWindow, type Admission } from '../support/admissions.ts';
import { redisUrl } from '../support/redis.ts';
import { openVirtualRedis, type Link, type VirtualRedis } from '../support/virtual-redis.ts';

/** `npm run test:limits` looks at many more. */
const RUNS = Number(env.LIMITS_RUNS ?? 60);
const MOST_MS = env.LIMITS_RUNS ? 3_600_000 : 2_500;
const WINDOW_MS = 60_000;
/** Of real time, which the tests do not set: out of the way. The clock of Redis may go ahead so far unnoticed. */
const COMMAND_TIMEOUT_MS = 1_000;
const DEAREST = 7;

type Step =
  /** So many at once, in parts of the limit but at least one, and what each counts for. */
  | { do: 'request'; process: number; part: number; cost: number }
  | { do: 'advance'; ms: number }
  | { do: 'link'; process: number; link: Link }
  | { do: 'crash' | 'give back'; process: number }
  | { do: 'limit'; max: number }
  | { do: 'clock'; ms: number };

const processes = fc.integer({ min: 1, max: 5 });
const limits: fc.Arbitrary<number> = fc.constantFrom(1, 2, 5, 20, 99, 100, 101, 150, 400);
const nth = fc.nat(4);
const requests: fc.Arbitrary<Step> = fc.record({
  do: fc.constant('request' as const),
  process: nth,
  part: fc.constantFrom(0, 0, 0, 0.1, 0.5, 1.2),
  cost: fc.constantFrom(1, 1, 1, 2, DEAREST),
});
const time: fc.Arbitrary<Step> = fc.record({
  do: fc.constant('advance' as const),
  ms: fc.oneof(
    fc.integer({ min: 0, max: 50 }),
    fc.integer({ min: 50, max: 3_000 }),
    fc.integer({ min: 3_000, max: 40_000 }),
    fc.constantFrom(59_999, 60_000, 60_001, 130_000),
  ),
});
const badLinks = fc.constantFrom<Link>('refused', 'answer lost', 'too late');
const newLink: fc.Arbitrary<Step> = fc.record({
  do: fc.constant('link' as const),
  process: nth,
  link: fc.oneof(badLinks, fc.constantFrom<Link>('up', 'up', 'slow')),
});
const crash: fc.Arbitrary<Step> = fc.record({ do: fc.constant('crash' as const), process: nth });
const giving: fc.Arbitrary<Step> = fc.record({ do: fc.constant('give back' as const), process: nth });
const newLimit: fc.Arbitrary<Step> = fc.record({ do: fc.constant('limit' as const), max: limits });
const clockBack: fc.Arbitrary<Step> = fc.record({
  do: fc.constant('clock' as const),
  ms: fc.integer({ min: -4_000_000, max: -1 }),
});

t.test(
  "A limit of L per minute admits at most L in *any* 60 seconds, over all processes, with no double burst at a window's edge, at under 0.1 Redis commands per admitted request on a hot key and none for a denied one.",
  async (t) => {
    const redis = await openRedis(t);
    if (!redis) return;
    const schedules = schedule(newLink, newLink, crash, giving, newLimit, clockBack);
    await look(t, [processes, limits, schedules], async (count, limit, steps) => {
      await redis.reset();
      const world = openWorld(redis, limit);
      const all = Array.from({ length: count }, () => startProcess(world));
      for (const step of steps) {
        const before = world.admitted.length;
        const index = 'process' in step ? step.process % count : 0;
        const process = all[index] as (typeof all)[number];
        if (step.do === 'request') process.request(Math.ceil(step.part * world.max) || 1, step.cost);
        if (step.do === 'advance') redis.advance(step.ms);
        if (step.do === 'link') process.link = step.link;
        if (step.do === 'crash') all[index] = startProcess(world);
        if (step.do === 'give back') process.giveBack();
        if (step.do === 'limit') world.max = step.max;
        if (step.do === 'clock') redis.shiftClock(step.ms);
        await redis.settle();
        // A higher limit may have admitted more before; nothing may come on top.
        if (world.admitted.length > before) atMostAtLast(world.max, world.admitted);
      }
      // A clock that is set back moves ends of leases, and may look like a loss.
      const lost = steps.some((step) => step.do === 'clock') ? [] : world.losses;
      if (lost.length > 0) throw new Error(`a loss that did not happen: ${lost.join()}`);
    });
  },
);

t.test('a lease is found whichever others end beside it', async (t) => {
  const redis = await openRedis(t);
  if (!redis) return;
  for (let phaseMs = 0; phaseMs < 500; phaseMs += 50) {
    await redis.reset();
    const world = openWorld(redis, 300);
    const [early, late] = [startProcess(world), startProcess(world)];
    const step = async (process: typeof early, count: number, afterMs: number) => {
      process.request(count, 1);
      await redis.settle();
      redis.advance(afterMs);
    };
    redis.advance(phaseMs);
    await step(early, 10, 200);
    // Both leases end 72 s after they were granted, which is in one cell in most phases.
    await step(late, 10, 11_900);
    await step(early, 1, 50);
    await step(late, 1, 50);
    t.same(world.losses, [], `begun ${phaseMs} ms after a cell`);
  }
});

t.test('a lease is found when others know another limit, whose cells are wider', async (t) => {
  const redis = await openRedis(t);
  if (!redis) return;
  for (let phaseMs = 0; phaseMs < 500; phaseMs += 50) {
    await redis.reset();
    const world = openWorld(redis, 400);
    const [small, large, other] = [
      startProcess({ ...world, max: 50 }),
      startProcess(world),
      startProcess(world),
    ];
    const step = async (process: typeof large, afterMs: number) => {
      process.request(1, 1);
      await redis.settle();
      redis.advance(afterMs);
    };
    redis.advance(phaseMs);
    // The life of a lease of a small limit is 2 s, of this large one 12 s.
    await step(large, 9_900);
    await step(small, 50);
    await step(other, 50);
    await step(small, 50);
    t.same(world.losses, [], `begun ${phaseMs} ms after a cell`);
  }
});

t.test('below the limit nothing is refused and nothing seems lost, however unequal the load', async (t) => {
  const redis = await openRedis(t);
  if (!redis) return;
  const loads = fc.record({
    max: fc.constantFrom(150, 300, 1_000),
    load: fc.double({ min: 0.3, max: 0.84, noNaN: true }),
    parts: fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 2, maxLength: 6 }),
    phases: fc.array(fc.integer({ min: 0, max: 2_000 }), { minLength: 6, maxLength: 6 }),
    stepMs: fc.integer({ min: 60, max: 300 }),
  });
  await look(t, [loads], async ({ max, load, parts, phases, stepMs }) => {
    await redis.reset();
    const world = openWorld(redis, max);
    const sum = parts.reduce((a, b) => a + b);
    const all = parts.map((part, index) => ({
      process: startProcess(world),
      perMs: (load * max * part) / sum / WINDOW_MS,
      beginMs: redis.now() + (phases[index] ?? 0),
      sent: 0,
    }));
    for (const endMs = redis.now() + 2.5 * WINDOW_MS; redis.now() < endMs; redis.advance(stepMs)) {
      for (const each of all) {
        const due = Math.floor((redis.now() - each.beginMs) * each.perMs) - each.sent;
        if (due <= 0) continue;
        each.process.request(due, 1);
        each.sent += due;
      }
      await redis.settle();
    }
    if (world.losses.length > 0) throw new Error(`a loss that did not happen: ${world.losses.join()}`);
    if (world.refused > 0) throw new Error(`${world.refused} of ${world.admitted.length} were refused`);
    atMost(max, world.admitted);
  });
});

t.test('without Redis, or when it forgot, each process keeps to its share', async (t) => {
  const redis = await openRedis(t);
  if (!redis) return;
  const troubles = fc.oneof(
    fc.record({ do: fc.constant('links' as const), link: badLinks }),
    fc.record({ do: fc.constant('flush' as const) }),
    fc.record({ do: fc.constant('clock' as const), ms: fc.integer({ min: 1_200, max: 4_000_000 }) }),
  );
  await look(
    t,
    [processes, limits, schedule(), troubles, schedule(), schedule()],
    async (count, max, before, trouble, during, after) => {
      await redis.reset();
      const all = Array.from({ length: count }, () => startLimiter(redis, max, count));
      const drive = async (steps: Step[]) => {
        for (const step of steps) {
          if (step.do === 'advance') redis.advance(step.ms);
          if (step.do === 'request') {
            all[step.process % count]?.request(Math.ceil(step.part * max) || 1, step.cost);
          }
          await redis.settle();
        }
      };
      await drive(before);
      if (trouble.do === 'links') for (const process of all) process.link = trouble.link;
      if (trouble.do === 'flush') await redis.flush();
      if (trouble.do === 'clock') redis.shiftClock(trouble.ms);
      await drive(during);
      for (const process of all) process.link = 'up';
      await drive(after);
      const shares = count * Math.max(Math.floor(max / count), DEAREST);
      atMost(
        max + Math.max(max, shares),
        all.flatMap(({ admitted }) => admitted),
      );
      for (const { admitted } of all) {
        for (const [index, { cost, alone }] of admitted.entries()) {
          const share = Math.max(Math.floor(max / count), cost);
          if (alone) atMostAtLast(share, admitted.slice(0, index + 1));
        }
      }
    },
  );
});

t.test('who comes again at the moment that was named is admitted', async (t) => {
  const redis = await openRedis(t);
  if (!redis) return;
  const setup = fc.record({
    second: fc.constantFrom(0, 3, 20, 150),
    minute: limits,
    tenant: fc.constantFrom(0, 2, 100, 300),
    prove: fc.infiniteStream(fc.boolean()),
  });
  await look(t, [setup, schedule()], async ({ second, minute, tenant, prove }, steps) => {
    await redis.reset();
    const limiter = createLimiter(redis, 1, () => 'up');
    const bounds = [
      { max: second, open: limiter.rule('second', 1_000), windowMs: 1_000 },
      { max: minute, open: limiter.rule('minute', WINDOW_MS), windowMs: WINDOW_MS },
      { max: tenant, open: limiter.rule('tenant', WINDOW_MS), windowMs: WINDOW_MS },
    ].filter(({ max }) => max > 0);
    const ask = async (cost: number) => {
      const verdict = limiter.take(
        bounds.map(({ open, max }) => open('key', max)),
        cost,
      );
      await redis.settle();
      return verdict;
    };
    for (const step of steps) {
      if (step.do === 'advance') redis.advance(step.ms);
      if (step.do !== 'request') continue;
      const count = Math.ceil(step.part * minute) || 1;
      const verdicts = await Promise.all(Array.from({ length: count }, () => ask(step.cost)));
      const verdict = verdicts.at(-1) as RateLimitDecision;
      const windowMs = bounds[verdict.index]?.windowMs ?? 0;
      if (!(verdict.resetMs > 0 && verdict.resetMs <= windowMs)) throw new Error(JSON.stringify(verdict));
      if (!prove.next().value) continue;
      if (verdict.admitted) {
        for (let left = verdict.left; left > 0; left--) {
          if (!(await ask(1)).admitted) throw new Error(`${left} of ${verdict.left} were not left`);
        }
      } else {
        redis.advance(Math.ceil(verdict.resetMs));
        if (!(await ask(step.cost)).admitted) throw new Error(`not admitted after ${verdict.resetMs} ms`);
      }
    }
  });
});

t.test('a question that got little of the time of those who waited says nothing of Redis', async (t) => {
  const redis = await openRedis(t);
  if (!redis) return;
  await redis.reset();
  let link: Link = 'slow';
  let fellBack = 0;
  const limiter = createLimiter(
    redis,
    10,
    () => link,
    () => (fellBack += 1),
  );
  const open = limiter.rule('minute', WINDOW_MS);
  const ask = async (cost: number) => limiter.take([open('key', 100)], cost);
  const [first, second] = [ask(1), ask(2)];
  await delay(0.8 * COMMAND_TIMEOUT_MS);
  await redis.settle();
  redis.advance(1);
  t.notOk((await first).byShare);
  t.ok((await second).byShare, 'it does not wait for longer than a command may take');
  t.equal(fellBack, 1);
  link = 'up';
  await redis.settle();
  redis.advance(1);
  const next = await ask(50);
  t.ok(next.admitted && !next.byShare, 'more than the share, from Redis');
  t.equal(fellBack, 1);
});

t.test('a token that is used at the end of its lease counts for a whole window from then on', async (t) => {
  const redis = await openRedis(t);
  if (!redis) return;
  await redis.reset();
  const world = openWorld(redis, 400);
  const [early, late] = [startProcess(world), startProcess(world)];
  for (let i = 0; i < 20; i++) {
    early.request(10, 1);
    await redis.settle();
    redis.advance(100);
  }
  redis.advance(3_000);
  early.link = 'refused';
  early.request(400, 1);
  await redis.settle();
  redis.advance(53_000);
  for (let i = 0; i < 15; i++) {
    late.request(400, 1);
    await redis.settle();
    atMostAtLast(400, world.admitted);
    redis.advance(1_000);
  }
  t.ok(world.admitted.length > 400, `${world.admitted.length} in more than a window`);
});

t.test('the moment for a dear request is told anew when cheap ones used what was left', async (t) => {
  const redis = await openRedis(t);
  if (!redis) return;
  await redis.reset();
  const limiter = createLimiter(redis, 1, () => 'up');
  const open = limiter.rule('minute', WINDOW_MS);
  const ask = async (cost: number) => limiter.take([open('key', 5)], cost);
  t.ok((await ask(1)).admitted);
  redis.advance(3_000);
  for (const cost of [1, 2, 1]) t.ok((await ask(cost)).admitted);
  const refused = await ask(2);
  t.notOk(refused.admitted);
  redis.advance(refused.resetMs);
  t.ok((await ask(2)).admitted, `after ${refused.resetMs} ms`);
});

t.test('the moment is told anew when what another limit kept back was used later', async (t) => {
  const redis = await openRedis(t);
  if (!redis) return;
  await redis.reset();
  const limiter = createLimiter(redis, 1, () => 'up');
  const rules = [
    { open: limiter.rule('minute', WINDOW_MS), max: 99 },
    { open: limiter.rule('tenant', WINDOW_MS), max: 100 },
  ];
  const ask = async (count: number, cost: number) => {
    const leases = () => rules.map(({ open, max }) => open('key', max));
    const asked = Array.from({ length: count }, async () => limiter.take(leases(), cost));
    const verdicts = await Promise.all(asked);
    await redis.settle();
    return {
      admitted: verdicts.filter(({ admitted }) => admitted).length,
      last: verdicts.at(-1) as RateLimitDecision,
    };
  };
  t.equal((await ask(1, 2)).admitted, 1);
  t.equal((await ask(14, 7)).admitted, 13);
  redis.advance(1);
  t.equal((await ask(4, 2)).admitted, 3);
  const { last } = await ask(1, 7);
  t.notOk(last.admitted);
  redis.advance(last.resetMs);
  t.equal((await ask(1, 7)).admitted, 1, `after ${last.resetMs} ms`);
});

t.test('what is used as its lease ends counts for a window, and not as long as the lease did', async (t) => {
  const redis = await openRedis(t);
  if (!redis) return;
  // Of the end of a lease that lives for a fifth of the window.
  for (const beforeMs of [450, 350, 250, 150, 50]) {
    await redis.reset();
    const limiter = createLimiter(redis, 1, () => 'up');
    const open = limiter.rule('minute', WINDOW_MS);
    const ask = async (count: number, cost: number) => {
      const asked = Array.from({ length: count }, async () => limiter.take([open('key', 100)], cost));
      const verdicts = await Promise.all(asked);
      await redis.settle();
      return verdicts.at(-1) as RateLimitDecision;
    };
    await ask(10, 1);
    redis.advance(1);
    await ask(11, 1);
    t.ok(open('key', 100).tokens > 0, 'more was leased than used');
    redis.advance(WINDOW_MS / 5 - beforeMs);
    await ask(1, 1);
    redis.advance(1);
    const refused = await ask(1, 100);
    t.notOk(refused.admitted);
    t.equal(refused.resetMs, WINDOW_MS - 1, 'a window after the last use');
    redis.advance(refused.resetMs);
    t.ok((await ask(1, 100)).admitted, `after ${refused.resetMs} ms`);
  }
});

function schedule(...rare: fc.Arbitrary<Step>[]): fc.Arbitrary<Step[]> {
  const step = fc.oneof(
    { weight: 10, arbitrary: requests },
    { weight: 8, arbitrary: time },
    ...rare.map((arbitrary) => ({ weight: 1, arbitrary })),
  );
  return fc.array(step, { maxLength: 40, size: 'max' });
}

/** Runs a property; on a slow machine fewer times than asked for. Throws with the smallest example that breaks it. */
async function look<T extends [unknown, ...unknown[]]>(
  t: Test,
  arbitraries: { [Index in keyof T]: fc.Arbitrary<T[Index]> },
  holds: (...example: T) => Promise<void>,
): Promise<void> {
  const end = performance.now() + MOST_MS;
  let looked = 0;
  const property = fc.asyncProperty<T>(...arbitraries, async (...example) => {
    if (looked > 5 && performance.now() > end) return;
    looked += 1;
    await holds(...example);
  });
  await fc.assert(property, {
    numRuns: RUNS,
    ...(env.LIMITS_SEED && { seed: Number(env.LIMITS_SEED) }),
  });
  t.ok(looked > 5, `${looked} schedules`);
}

async function openRedis(t: Test): Promise<VirtualRedis | undefined> {
  const url = await redisUrl(t);
  if (!url) return undefined;
  const redis = openVirtualRedis(url);
  t.teardown(() => redis.close());
  return redis;
}

interface World {
  redis: VirtualRedis;
  max: number;
  admitted: Admission[];
  refused: number;
  /** Why a process held that Redis had lost what it counted. */
  losses: string[];
}

function openWorld(redis: VirtualRedis, max: number): World {
  return { redis, max, admitted: [], refused: 0, losses: [] };
}

/** Admits by leases alone: what Redis does not answer is refused. */
function startProcess(world: World) {
  const { redis } = world;
  const process = { link: 'up' as Link, request, giveBack };
  const leases = createLeases({
    run: redis.runnerOf(() => process.link),
    commandTimeoutMs: COMMAND_TIMEOUT_MS,
    now: redis.now,
    mostFor: () => Infinity,
    onLoss: (reason) => void world.losses.push(reason),
  });
  const lease = openLease({ id: 'limit', max: world.max, windowMs: WINDOW_MS }, redis.now());

  async function decide(wanted: number): Promise<void> {
    for (;;) {
      if (lease.limit.max !== world.max) changeLimit(lease, world.max);
      const cost = Math.min(wanted, world.max);
      const refusedMs = leases.refusedMs(lease, cost, redis.now());
      if (refusedMs !== undefined) lease.demand += cost;
      if (refusedMs === 0) {
        leases.pay(lease, cost, redis.now());
        world.admitted.push({ atMs: redis.now(), cost });
      } else if (refusedMs !== undefined) world.refused += 1;
      if (refusedMs !== undefined) return;
      await leases.refill(lease, cost, performance.now());
    }
  }

  function request(count: number, cost: number): void {
    for (let i = 0; i < count; i++) decide(cost).catch(() => undefined);
  }

  function giveBack(): void {
    leases.giveBack(lease).catch(() => undefined);
  }

  return process;
}

/** One of `count` processes; what it admitted without Redis is marked. */
function startLimiter(redis: VirtualRedis, max: number, count: number) {
  const process = { link: 'up' as Link, request, admitted: [] as (Admission & { alone: boolean })[] };
  let fellBack = 0;
  const limiter = createLimiter(
    redis,
    count,
    () => process.link,
    () => (fellBack += 1),
  );
  const open = limiter.rule('limit', WINDOW_MS);

  async function take(wanted: number): Promise<void> {
    const cost = Math.min(wanted, max);
    const before = fellBack;
    const verdict = limiter.take([open('key', max)], cost);
    const { admitted } = verdict instanceof Promise ? await verdict : verdict;
    if (admitted) process.admitted.push({ atMs: redis.now(), cost, alone: fellBack > before });
  }

  function request(times: number, cost: number): void {
    for (let i = 0; i < times; i++) void take(cost);
  }

  return process;
}

function createLimiter(
  redis: VirtualRedis,
  expectedReplicas: number,
  link: () => Link,
  onFallback = () => {},
) {
  return createRateLimiter({
    run: redis.runnerOf(link),
    commandTimeoutMs: COMMAND_TIMEOUT_MS,
    expectedReplicas,
    now: redis.now,
    log: { warn: () => undefined },
    metrics: { rateLimitLocal: { set: () => undefined }, rateLimitFallback: { inc: onFallback } },
  } as unknown as RateLimiterOptions);
}

function atMost(max: number, admitted: Admission[]): void {
  const most = mostInAnyWindow(admitted, WINDOW_MS);
  if (most > max) throw new Error(`${most} in a window that may hold ${max}`);
}

/** In the window that ends with the last admission. */
function atMostAtLast(max: number, admitted: Admission[]): void {
  const endMs = admitted.at(-1)?.atMs ?? 0;
  atMost(
    max,
    admitted.filter(({ atMs }) => atMs > endMs - WINDOW_MS),
  );
}
