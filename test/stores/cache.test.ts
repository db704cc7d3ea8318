import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { AppError } from '../../src/errors.ts';
import { createMetrics } from '../../src/metrics.ts';
import { createCache, createNoCache } from '../../src/stores/cache.ts';
import { openRedis } from '../../src/stores/redis.ts';
import { createSingleFlight } from '../../src/stores/single-flight.ts';
import { redisUrl, startRedis } from '../support/redis.ts';

const COMMAND_TIMEOUT_MS = 150;
const SLACK_MS = 50;
const KEY = { tenant: 'acme', name: 'order', id: '1' };
const REDIS_KEY = 'test:1:{["acme","order","1"]}';

const unhandled: unknown[] = [];
process.on('unhandledRejection', (error) => unhandled.push(error));

/** One process as the cache sees it: a connection, a cache, and the results it counted. */
async function openProcess(
  t: Test,
  url: string | undefined,
  settings: { ttlSeconds?: number; maxRows?: number; alone?: boolean } = {},
) {
  const lines: Record<string, string>[] = [];
  const log = pino({ messageKey: 'message' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const metrics = createMetrics('test');
  const redis = url
    ? openRedis({ url, commandTimeoutMs: COMMAND_TIMEOUT_MS, role: 'cache' }, { log, metrics })
    : undefined;
  if (redis) t.teardown(() => redis.close());
  const cache = createCache(
    { prefix: 'test', ttlSeconds: 60, maxRows: 100, alone: false, ...settings },
    { log, metrics, ...(redis && { redis }) },
  );
  const results = async () => {
    const { values } = await metrics.cacheRequests.get();
    return Object.fromEntries(
      values.filter(({ value }) => value > 0).map(({ labels, value }) => [labels.result, value]),
    );
  };
  if (redis) {
    const heard = redis.subscribe('test:purged', { onMessage() {}, onGap() {} });
    await until(() => redis.ready() && heard.live());
  }
  return { cache, lines, results, ...(redis && { redis, client: redis.client }) } as {
    cache: typeof cache;
    lines: typeof lines;
    results: typeof results;
    redis: ReturnType<typeof openRedis>;
    client: ReturnType<typeof openRedis>['client'];
  };
}

/** Processes on one Redis that is empty. */
async function openProcesses(t: Test, settings: { ttlSeconds?: number; maxRows?: number } = {}) {
  const url = await redisUrl(t);
  if (!url) return undefined;
  const a = await openProcess(t, url, settings);
  await a.client.flushdb();
  return { url, a, b: await openProcess(t, url, settings) };
}

/** A load that counts itself, and that a test can hold up. */
function createLoad<T>(value: T, gate: Promise<unknown> = Promise.resolve()) {
  const load = async (): Promise<T> => {
    load.calls += 1;
    const mine = load.value;
    await gate;
    return mine;
  };
  load.calls = 0;
  load.value = value;
  return load;
}

function createFailure(error: Error) {
  const load = async (): Promise<never> => {
    load.calls += 1;
    throw error;
  };
  load.calls = 0;
  return load;
}

function createGate() {
  const steps: (() => void)[] = [];
  const opened = new Promise<void>((resolve) => void steps.push(resolve));
  return { opened, open: () => steps.forEach((step) => step()) };
}

const neverLoad = async (): Promise<string | undefined> => {
  throw new Error('must not be loaded');
};

async function until(condition: () => boolean | Promise<boolean>, timeoutMs = 5000): Promise<void> {
  const endMs = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > endMs) throw new Error(`still not after ${timeoutMs} ms: ${String(condition)}`);
    await delay(5);
  }
}

async function timed<T>(work: Promise<T>): Promise<{ value: T; tookMs: number }> {
  const startedAtMs = performance.now();
  const value = await work;
  return { value, tookMs: performance.now() - startedAtMs };
}

t.test('what was read once is neither loaded nor parsed again', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  const load = createLoad({ total: 5, lines: [{ sku: 'x' }], at: new Date(0) });

  const first = await a.cache.getWithAge(KEY, load);
  const again = await a.cache.getWithAge(KEY, neverLoad);
  await until(async () => (await a.client.exists(REDIS_KEY)) === 1);
  const elsewhere = await b.cache.getWithAge(KEY, neverLoad);

  t.same([first.result, again.result, elsewhere.result], ['miss', 'hit', 'hit']);
  t.equal(again.value, first.value, 'the very same object');
  t.same(first.value, { total: 5, lines: [{ sku: 'x' }], at: '1970-01-01T00:00:00.000Z' });
  t.same(elsewhere.value, first.value, 'it looks the same wherever it comes from');
  t.throws(
    () => Object.assign(first.value?.lines[0] as object, { sku: 'y' }),
    TypeError,
    'and nobody can change it',
  );
  t.same(await a.results(), { miss: 1, hit: 1 });
});

t.test('a value never crosses tenants, whatever their names and ids contain', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  const parts = [
    'a',
    'a:b',
    'a:',
    ':b',
    'b',
    '',
    '","',
    '}',
    '{x}',
    'ä',
    '\ud800',
    '\ud801',
    'a\\',
    'a"',
    '\0',
  ];
  const keys = parts.flatMap((tenant) => parts.map((id) => ({ tenant, name: 'order', id })));

  for (const key of keys) await a.cache.get(key, async () => key);

  for (const { cache } of [a, b]) {
    for (const key of keys) t.same(await cache.get(key, async () => key), JSON.parse(JSON.stringify(key)));
  }
  t.equal(await a.client.dbsize(), keys.length);
});

t.test('100 readers in one process load once', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a } = processes;
  const load = createLoad('value', delay(50));

  const values = await Promise.all(Array.from({ length: 100 }, () => a.cache.get(KEY, load)));

  t.same([new Set(values), load.calls], [new Set(['value']), 1]);
  t.same(await a.results(), { miss: 1, coalesced: 99 });
  const failing = createFailure(new AppError('unavailable', 'no database'));
  const failed = await Promise.allSettled(
    Array.from({ length: 10 }, () => a.cache.get({ ...KEY, id: '2' }, failing)),
  );
  t.ok(failed.every(({ status }) => status === 'rejected') && failing.calls === 1, 'an error is shared too');
});

t.test('two processes load once: the other one waits for the value', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  const load = createLoad('value', delay(100));

  const values = await Promise.all([a, b, a, b].map(({ cache }) => cache.get(KEY, load)));

  t.same([values, load.calls], [['value', 'value', 'value', 'value'], 1]);
  const counted = [await a.results(), await b.results()].map(({ coalesced }) => coalesced);
  t.same(counted.toSorted(), [1, 2]);
});

t.test('150 cold reads in three processes load once', async (t) => {
  const url = await redisUrl(t);
  if (!url) return;
  const { client } = await openProcess(t, url);
  await client.flushdb();
  const script = fileURLToPath(new URL('./cache-reader.ts', import.meta.url));
  const readers = [1, 2, 3].map(() => {
    const child = spawn(process.execPath, ['--import', 'tsx', script, url, '50'], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    t.teardown(() => child.kill('SIGKILL'));
    return {
      child,
      exited: once(child, 'exit'),
      lines: createInterface(child.stdout)[Symbol.asyncIterator](),
    };
  });

  for (const { lines } of readers) t.equal((await lines.next()).value, 'ready');
  for (const { child } of readers) child.stdin.write('go\n');
  for (const { lines } of readers) {
    const values = JSON.parse((await lines.next()).value ?? '');
    t.same(
      values,
      Array.from({ length: 50 }, () => ({ number: 1 })),
    );
  }
  await Promise.all(readers.map(({ exited }) => exited));

  t.equal(await client.get('loads'), '1');
});

t.test('null, 0, false and the empty string are values', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;

  for (const [index, value] of [null, 0, false, '', [], {}].entries()) {
    const key = { ...KEY, id: String(index) };
    t.same(await a.cache.get(key, async () => value), value);
    t.same(await a.cache.get(key, neverLoad), value);
    await until(async () => (await a.client.exists(REDIS_KEY.replace('"1"', `"${index}"`))) === 1);
    t.same(await b.cache.get(key, neverLoad), value);
  }
});

t.test('that there is nothing is remembered for seconds, until it is created', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;

  t.equal(await a.cache.get(KEY, async () => undefined), undefined);
  t.equal((await a.cache.getWithAge(KEY, neverLoad)).result, 'negative');
  await until(async () => (await a.client.exists(REDIS_KEY)) === 1);
  t.equal((await b.cache.getWithAge(KEY, neverLoad)).result, 'negative');
  t.ok((await a.client.pttl(REDIS_KEY)) <= 5000);

  await a.cache.invalidate(KEY);
  t.equal(await a.cache.get(KEY, async () => 'created'), 'created');
  await until(async () => (await b.cache.get(KEY, async () => 'created')) === 'created', 800);
});

t.test('what was filled together does not expire together', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a } = processes;
  const ids = Array.from({ length: 50 }, (_, index) => String(index));

  await Promise.all(ids.map((id) => a.cache.get({ ...KEY, id }, async () => id, { ttlSeconds: 100 })));
  await until(async () => (await a.client.keys('*lease')).length === 0);

  const texts = await a.client.mget(await a.client.keys('test:1:*'));
  const ttls = texts.map((text) => Number(text?.split(' ')[1]));
  t.equal(ttls.length, 50);
  t.ok(ttls.every((ttl) => ttl >= 90_000 && ttl <= 110_000));
  t.ok(new Set(ttls).size > 40, 'no two alike');
  const lives = await Promise.all((await a.client.keys('*')).map((key) => a.client.pttl(key)));
  t.ok(
    lives.every((life) => life > 0),
    'and nothing lives for ever',
  );
});

t.test('a stale value is served at once while one process refreshes it', async (t) => {
  const processes = await openProcesses(t, { ttlSeconds: 0.3 });
  if (!processes) return;
  const { a, b } = processes;
  await a.cache.get(KEY, async () => 'old');
  await delay(350);
  const gate = createGate();
  const refresh = createLoad<string>('new', gate.opened);

  const answers = await Promise.all([a, b, a, b].map(({ cache }) => cache.getWithAge(KEY, refresh)));
  t.same(
    answers.map(({ value }) => value),
    ['old', 'old', 'old', 'old'],
  );
  await until(() => refresh.calls > 0);
  const during = await timed(a.cache.getWithAge(KEY, refresh));
  t.match(during.value, { value: 'old', result: 'stale' });
  t.ok(during.tookMs < 200, 'nobody waits');

  gate.open();
  await until(async () => (await a.client.get(REDIS_KEY))?.endsWith('"new"') ?? false);
  const kept = await Promise.all([a, b].map(({ cache }) => cache.get(KEY, neverLoad)));
  t.ok(kept.includes('new'), 'the one that refreshed has it at once');
  t.equal(refresh.calls, 1);
});

t.test('a refresh that fails hurts nobody', async (t) => {
  const processes = await openProcesses(t, { ttlSeconds: 0.3 });
  if (!processes) return;
  const { a } = processes;
  await a.cache.get(KEY, async () => 'old');
  await delay(350);

  const failing = createFailure(new Error('the database is away'));
  t.equal(await a.cache.get(KEY, failing), 'old');
  await until(() => failing.calls === 1);
  await until(async () => (await a.client.keys('*lease')).length === 0);

  t.equal(await a.cache.get(KEY, neverLoad), 'old');
  t.same(unhandled, []);
});

t.test(
  'an old value is served when loading fails, with its age, but not in place of an answer',
  async (t) => {
    const processes = await openProcesses(t, { ttlSeconds: 0.2 });
    if (!processes) return;
    const { a, b } = processes;
    await a.cache.get(KEY, async () => 'old');
    await delay(1050);

    const away = createFailure(new AppError('unavailable', 'no database'));
    const served = await a.cache.getWithAge(KEY, away);
    t.same(served, { value: 'old', ageSeconds: 1, result: 'stale' });
    t.equal(await b.cache.get(KEY, away), 'old', 'also by a process that never had it');
    t.ok(a.lines.some(({ message }) => message?.includes('an old value is served')));

    const forbidden = createFailure(new AppError('forbidden', 'not yours'));
    const third = await openProcess(t, processes.url);
    await t.rejects(third.cache.get(KEY, forbidden), { code: 'forbidden' });
    await t.rejects(
      a.cache.get({ ...KEY, id: '2' }, away),
      { code: 'unavailable' },
      'without one the error stands',
    );
    await a.cache.invalidate(KEY);
    await t.rejects(a.cache.get(KEY, away), { code: 'unavailable' }, 'an invalidated value is gone for good');
  },
);

t.test('with Redis and the database gone, what this process kept is served', async (t) => {
  const server = await startRedis(t);
  if (!server) return;
  const a = await openProcess(t, server.url, { ttlSeconds: 0.2 });
  await a.cache.get(KEY, async () => 'old');
  await server.stop();
  await until(() => !a.redis.ready());
  await delay(500);

  const away = createFailure(new AppError('unavailable', 'no database'));
  t.match(await a.cache.getWithAge(KEY, away), { value: 'old', result: 'stale' });
  t.match(await a.cache.getWithAge(KEY, away), { value: 'old', result: 'stale' });
  t.equal(away.calls, 1, 'and it is not asked for at every read');
});

t.test('a load that began before an invalidation fills nothing, here or anywhere', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;

  for (const [index, writer] of [a, b].entries()) {
    const key = { ...KEY, id: String(index) };
    const gate = createGate();
    const before = createLoad('before', gate.opened);
    const slow = a.cache.get(key, before);
    await until(() => before.calls === 1);
    await writer.cache.invalidate(key);

    const after = createLoad('after');
    t.equal(await writer.cache.get(key, after), 'after', 'who comes later does not join the old load');
    await until(async () => (await a.client.exists(REDIS_KEY.replace('"1"', `"${index}"`))) === 1);
    gate.open();
    t.equal(await slow, 'before', 'who came earlier gets what there was');
    t.equal(await a.cache.get(key, after), 'after');
    t.match(await a.client.get(REDIS_KEY.replace('"1"', `"${index}"`)), /"after"$/);
  }
});

t.test('a read of Redis that an invalidation overtakes is not kept', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  await a.cache.get(KEY, async () => 'old');
  await until(async () => (await a.client.exists(REDIS_KEY)) === 1);

  const early = b.cache.get(KEY, neverLoad);
  // The command leaves some microtasks later; its answer cannot come before the next turn of the loop.
  for (let tick = 0; tick < 10; tick += 1) await Promise.resolve();
  await b.cache.invalidate(KEY);

  t.equal(await early, 'old');
  t.equal(await b.cache.get(KEY, async () => 'new'), 'new');
});

t.test(
  'an old value that an invalidation overtakes is served to those who came before it only',
  async (t) => {
    const processes = await openProcesses(t, { ttlSeconds: 0.1 });
    if (!processes) return;
    const { a } = processes;
    const failure = createFailure(new AppError('timeout', 'too slow'));
    await a.cache.get(KEY, async () => 'old');
    await delay(250);
    const gate = createGate();
    let asked = false;
    const early = a.cache.get(KEY, async () => {
      asked = true;
      await gate.opened;
      return failure();
    });
    await until(() => asked);

    await a.cache.invalidate(KEY);
    gate.open();

    t.equal(await early, 'old');
    await t.rejects(a.cache.get(KEY, failure), { code: 'timeout' });
  },
);

t.test(
  'an invalidation that Redis refuses is paid later, and nothing old is read or stored meanwhile',
  async (t) => {
    const server = await startRedis(t);
    if (!server) return;
    const [a, b] = [await openProcess(t, server.url), await openProcess(t, server.url)];
    await a.cache.get(KEY, async () => 'old');
    await until(async () => (await a.client.exists(REDIS_KEY)) === 1);
    const gate = createGate();
    const other = { ...KEY, id: '2' };
    const loading = createLoad('old', gate.opened);
    const early = a.cache.get(other, loading);
    await until(() => loading.calls === 1);

    await a.client.call('ACL', 'SETUSER', 'default', '-unlink');
    await a.cache.invalidate(KEY);
    await a.cache.invalidate(other);
    gate.open();
    await early;
    t.equal(await a.cache.get(KEY, async () => 'new'), 'new');
    t.equal(await a.client.exists(REDIS_KEY.replace('"1"', '"2"')), 0);
    t.ok(a.lines.some(({ message }) => message?.includes('could not use Redis')));

    await a.client.call('ACL', 'SETUSER', 'default', '+unlink');
    await until(async () => {
      await a.cache.get(KEY, async () => 'new');
      return (await a.client.get(REDIS_KEY))?.endsWith('"new"') ?? false;
    });
    t.equal(await b.cache.get(KEY, neverLoad), 'new');
  },
);

t.test('a load that was invalidated and not repeated leaves nothing behind', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  const gate = createGate();
  const before = createLoad('before', gate.opened);
  const slow = a.cache.get(KEY, before);
  await until(() => before.calls === 1);

  await b.cache.invalidate(KEY);
  gate.open();
  await slow;

  t.equal(await a.client.dbsize(), 0);
  t.equal(await a.cache.get(KEY, async () => 'after'), 'after');
});

t.test('no reader sees an older value than an invalidation that it knows of', async (t) => {
  const processes = await openProcesses(t, { ttlSeconds: 0.05 });
  if (!processes) return;
  const { a, b } = processes;
  let version = 0;
  let invalidated = 0;
  let reads = 0;
  const stopped = new AbortController();
  const load = async (): Promise<number> => {
    const read = version;
    await delay(Math.random() * 5);
    return read;
  };
  const read = async () => {
    while (!stopped.signal.aborted) {
      const least = invalidated;
      const value = (await a.cache.get(KEY, load)) ?? -1;
      reads += 1;
      if (value < least) t.fail(`read ${value} after ${least} was invalidated`);
      await delay(Math.random() * 2);
    }
  };
  const disturb = async () => {
    while (!stopped.signal.aborted) {
      await b.cache.get(KEY, load);
      await delay(Math.random() * 2);
    }
  };

  const work = [read(), read(), read(), disturb(), disturb()];
  for (let round = 0; round < 150; round += 1) {
    version += 1;
    await a.cache.invalidate(KEY);
    invalidated = version;
    await delay(Math.random() * 10);
  }
  stopped.abort();
  await Promise.all(work);

  t.ok(reads > 300, `${reads} reads, 150 invalidations`);
});

t.test('another process drops what it keeps when it hears of an invalidation', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  await a.cache.get(KEY, async () => 'old');
  await until(async () => (await a.client.exists(REDIS_KEY)) === 1);
  t.equal(await b.cache.get(KEY, neverLoad), 'old');

  await a.cache.invalidate(KEY);

  const { tookMs } = await timed(until(async () => (await b.cache.get(KEY, async () => 'new')) === 'new'));
  t.ok(tookMs < 800, `${tookMs.toFixed(0)} ms`);
});

t.test('when news may have been missed nothing kept is believed', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  await a.cache.get(KEY, async () => 'old');
  await until(async () => (await a.client.exists(REDIS_KEY)) === 1);
  t.equal(await b.cache.get(KEY, neverLoad), 'old');

  await a.client.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
  await a.client.set(REDIS_KEY, '1 60000 420000 "new"', 'PX', 420_000);

  const { tookMs } = await timed(until(async () => (await b.cache.get(KEY, neverLoad)) === 'new'));
  t.ok(tookMs < 800, `${tookMs.toFixed(0)} ms`);
});

t.test('without Redis it is a cache of one second that loads once at a time', async (t) => {
  const alone = await openProcess(t, undefined);
  const load = createLoad('first');

  await Promise.all(Array.from({ length: 50 }, () => alone.cache.get(KEY, load)));
  t.equal(load.calls, 1);
  load.value = 'second';
  const { tookMs } = await timed(until(async () => (await alone.cache.get(KEY, load)) === 'second'));
  t.ok(tookMs > 900 && tookMs < 2000, `believed for ${tookMs.toFixed(0)} ms`);
  await alone.cache.invalidate(KEY);
  load.value = 'third';
  t.equal(await alone.cache.get(KEY, load), 'third');
});

t.test(
  'a process that is alone believes what it keeps while it is fresh, then refreshes behind it',
  async (t) => {
    const { cache } = await openProcess(t, undefined, { ttlSeconds: 1.5, alone: true });
    const key = { tenant: 'a', name: 'thing', id: '1' };
    let loads = 0;
    const load = async () => ++loads;
    t.equal(await cache.get(key, load), 1);
    await delay(1200);
    t.equal(
      (await cache.getWithAge(key, load)).result,
      'hit',
      'longer than another process would be trusted for',
    );

    await until(async () => (await cache.getWithAge(key, load)).result === 'stale');
    await until(() => loads === 2);
    t.equal(await cache.get(key, load), 2);
    await cache.invalidate(key);
    t.equal(await cache.get(key, load), 3, 'an invalidation counts at once');
  },
);

t.test('what is too big passes through, and nobody waits for it', async (t) => {
  const processes = await openProcesses(t, { maxRows: 3 });
  if (!processes) return;
  const { a, b } = processes;
  const cases: [string, unknown, object][] = [
    ['rows', [1, 2, 3, 4], {}],
    ['page', { items: [1, 2, 3, 4] }, { rows: (page: { items: unknown[] }) => page.items.length }],
    ['bytes', 'x'.repeat(2 ** 20), {}],
    ['no JSON', 5n, {}],
  ];

  for (const [id, value, options] of cases) {
    const key = { ...KEY, id };
    const load = createLoad(value, delay(50));
    const both = await timed(Promise.all([a, b].map(({ cache }) => cache.get(key, load, options))));
    t.same(both.value, [value, value]);
    const third = await timed(a.cache.get(key, createLoad(value), options));
    t.ok(third.tookMs < 200, 'for some seconds no lease is asked for');
    t.equal(load.calls, 2, `${id}: each process loads for itself`);
    t.equal(await a.client.get(`${REDIS_KEY.replace('"1"', `"${id}"`)}:lease`), 'too-big');
  }
  t.same(await a.client.keys('*}'), [], 'nothing was stored');
  t.same(await a.cache.get({ ...KEY, id: 'fits' }, async () => [1, 2, 3]), [1, 2, 3]);
  await until(async () => (await a.client.keys('*}')).length === 1);
});

t.test('a process that died while it loaded delays others two seconds, once', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a } = processes;
  await a.client.set(`${REDIS_KEY}:lease`, 'somebody who is dead', 'PX', 60_000);

  const first = await timed(a.cache.get(KEY, async () => 'value'));
  t.ok(first.tookMs > 1000 && first.tookMs < 3000, `${first.tookMs.toFixed(0)} ms`);
  await delay(1010);
  const second = await timed(a.cache.get(KEY, async () => 'later'));
  t.equal(second.value, 'later');
  t.ok(second.tookMs < 1000, `the second waited ${second.tookMs.toFixed(0)} ms`);
});

t.test('Redis that is gone costs a read nothing, one that hangs a command timeout', async (t) => {
  const server = await startRedis(t);
  if (!server) return;
  const a = await openProcess(t, server.url, { ttlSeconds: 0.01 });
  const read = () => timed(a.cache.get(KEY, async () => 'value'));
  await read();

  server.freeze();
  await delay(20);
  const costs: number[] = [];
  while (a.redis.ready()) {
    costs.push((await read()).tookMs);
    await delay(30);
  }
  const shown = `hanging: ${costs.map((ms) => ms.toFixed(0)).join(' ')} ms`;
  t.ok(
    (costs.toSorted((x, y) => x - y)[Math.floor(costs.length / 2)] ?? 0) < COMMAND_TIMEOUT_MS + SLACK_MS,
    shown,
  );
  t.ok(Math.max(...costs) < 2 * COMMAND_TIMEOUT_MS, 'and never two timeouts');
  const invalidating = await timed(a.cache.invalidate(KEY));
  t.ok(invalidating.tookMs < SLACK_MS);
  t.ok((await read()).tookMs < SLACK_MS);
  server.thaw();
  await until(() => a.redis.ready());

  await server.stop();
  await until(() => !a.redis.ready());
  for (let count = 0; count < 20; count += 1) {
    const { value, tookMs } = await read();
    t.ok(value === 'value' && tookMs < SLACK_MS, `gone: ${tookMs.toFixed(2)} ms`);
  }
  t.ok(((await a.results()).error ?? 0) >= 1, 'the failures were counted');

  await server.start();
  await until(() => a.redis.ready());
  await until(async () => {
    await read();
    return (await a.client.exists(REDIS_KEY)) === 1;
  });
});

t.test('a lease whose answer got lost makes nobody wait', async (t) => {
  const server = await startRedis(t);
  if (!server) return;
  const a = await openProcess(t, server.url);

  server.freeze();
  t.equal(await a.cache.get(KEY, async () => 'value'), 'value');
  server.thaw();
  await a.client.ping();

  t.same(await a.client.keys('*lease'), []);
});

t.test('garbage under a key of the cache is a miss, and goes', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a } = processes;
  const { client } = a;
  const garbage: [string, () => Promise<unknown>][] = [
    ['another type', () => client.lpush(REDIS_KEY, 'x')],
    ['another format', () => client.set(REDIS_KEY, '0 60000 420000 "foreign"', 'PX', 420_000)],
    ['no entry', () => client.set(REDIS_KEY, 'null', 'PX', 60_000)],
    ['no expiry', () => client.set(REDIS_KEY, '1 60000 420000 "eternal"')],
    ['an eternal absence', () => client.set(REDIS_KEY, '1 5000 5000 ')],
    ['half an entry', () => client.set(REDIS_KEY, '1 60000 420000 {"total":', 'PX', 420_000)],
  ];

  for (const [name, put] of garbage) {
    await a.cache.invalidate(KEY);
    await put();
    t.equal(await a.cache.get(KEY, async () => name), name, name);
    await a.cache.get(KEY, neverLoad);
    const text = await client.get(REDIS_KEY);
    t.ok(text === null || text.endsWith(`"${name}"`));
  }
});

t.test('a full Redis is a slower cache, not an error', async (t) => {
  const server = await startRedis(t, { args: ['--maxmemory-policy', 'noeviction'] });
  if (!server) return;
  const a = await openProcess(t, server.url);
  await a.cache.get(KEY, async () => 'kept');
  await until(async () => (await a.client.exists(REDIS_KEY)) === 1);
  const b = await openProcess(t, server.url);
  await a.client.config('SET', 'maxmemory', '1');

  t.equal(await b.cache.get(KEY, neverLoad), 'kept', 'what is in it is served');
  const other = { ...KEY, id: '2' };
  t.equal(await b.cache.get(other, async () => 'loaded'), 'loaded');
  t.match(await b.results(), { error: 1, hit: 1, miss: 1 });
  await a.cache.invalidate(KEY);
  t.equal(await a.client.exists(REDIS_KEY), 0, 'and an invalidation still works');

  await a.client.config('SET', 'maxmemory', '0');
  t.equal(await a.cache.get(other, async () => 'again'), 'again');
  await until(async () => (await a.client.exists(REDIS_KEY.replace('"1"', '"2"'))) === 1);
});

t.test('an invalidation that Redis could not be told of is told when it is back', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  await a.cache.get(KEY, async () => 'old');
  await until(async () => (await a.client.exists(REDIS_KEY)) === 1);

  a.client.disconnect(true);
  t.notOk(a.redis.ready() && a.client.stream.writable);
  await a.cache.invalidate(KEY);
  t.equal(
    await a.cache.get(KEY, async () => 'new'),
    'new',
    'this process does not read the old one meanwhile',
  );
  await until(async () => !(await b.client.get(REDIS_KEY))?.includes('old'));
  await until(async () => (await b.cache.get(KEY, async () => 'new')) === 'new');
});

t.test('nobody joins a load that hangs for ever', async (t) => {
  const flights = createSingleFlight<string>(20);
  void flights.start('id', () => new Promise(() => undefined));

  t.ok(flights.find('id'));
  await until(() => flights.find('id') === undefined);
  t.equal(await flights.start('id', async (mine) => `mine: ${mine()}`), 'mine: true');
});

t.test('a cache that is switched off loads every time', async (t) => {
  const cache = createNoCache();
  const load = createLoad('value');

  t.equal(await cache.get(KEY, load), 'value');
  t.same(await cache.getWithAge(KEY, load), { value: 'value', ageSeconds: 0, result: 'miss' });
  await cache.invalidate(KEY);
  t.equal(load.calls, 2);
});

t.test('a hot hit costs microseconds', async (t) => {
  const alone = await openProcess(t, undefined);
  const page = Array.from({ length: 20 }, (_, index) => ({ id: index, name: 'x'.repeat(100) }));
  await alone.cache.get(KEY, async () => page);
  const reads = 20_000;

  const { tookMs } = await timed(
    (async () => {
      for (let count = 0; count < reads; count += 1) await alone.cache.get(KEY, async () => page);
    })(),
  );

  const microseconds = (tookMs * 1000) / reads;
  t.comment(`${microseconds.toFixed(2)} µs`);
  t.ok(microseconds < 50);
});

t.test('nothing above left a rejection unhandled', async (t) => {
  t.same(unhandled, []);
});
