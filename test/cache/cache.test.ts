import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Redis } from 'ioredis';
import t from 'tap';
import { z } from 'zod';
import { AppError } from '../../src/errors.ts';
import { CacheEntry } from '../../src/cache/entry.ts';
import { encodeEntry, encodeKey, shapeOf } from '../../src/cache/serialization.ts';
import { createNoCache } from '../../src/cache/cache.ts';
import { createSingleFlight } from '../../src/lib/single-flight.ts';
import { startRedis } from '../support/redis.ts';
import { startTcpProxy } from '../support/tcp-proxy.ts';
import { until } from '../support/until.ts';
import {
  KEY,
  age,
  createFailure,
  createGate,
  createLoad,
  distrust,
  isStored,
  leaseKey,
  neverLoad,
  openProcess,
  openProcesses,
  redisKey,
  storeOld,
  timed,
  type CacheProcess,
} from './cache-world.ts';

const SLACK_MS = 50;
const away = () => createFailure(new AppError('unavailable', 'no database'));

const unhandled: unknown[] = [];
process.on('unhandledRejection', (error) => unhandled.push(error));

t.test('what was read once is not loaded again, and looks the same wherever it comes from', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  const load = createLoad({ total: 5, lines: [{ sku: 'x' }], at: new Date(0) });

  const first = await a.read(KEY, load);
  const again = await a.read(KEY, neverLoad);
  await isStored(a);
  const elsewhere = await b.read(KEY, neverLoad);

  t.same([first.result, again.result, elsewhere.result], ['miss', 'hit', 'hit']);
  t.equal(again.value, first.value, 'the very same object');
  t.same(first.value, { total: 5, lines: [{ sku: 'x' }], at: '1970-01-01T00:00:00.000Z' });
  t.same(elsewhere.value, first.value);
  t.throws(
    () => Object.assign(first.value?.lines[0] as object, { sku: 'y' }),
    TypeError,
    'and nobody can change it',
  );
  t.same(await a.results(), { miss: 1, hit: 1 });
});

t.test('a hot entry is not parsed: its JSON and its ETag are there as they were stored', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  let written = 0;
  const options = {
    etagOf: ({ version }: { version: number }) => `"${version}"`,
    write: ({ version }: { version: number }) => `{"version": ${version}, "written": ${(written += 1)}}`,
  };
  const json = '{"version": 7, "written": 1}';
  t.equal(a.cache.peek(KEY), undefined);
  await a.cache.read(KEY, async () => ({ version: 7, secret: 1 }), options);
  await isStored(a);
  const { parse } = JSON;
  let parsed = 0;
  JSON.parse = (...args: Parameters<typeof parse>) => {
    if (args[0].includes('"version"')) parsed += 1;
    return parse(...args);
  };
  t.teardown(() => (JSON.parse = parse));

  t.match(a.cache.peek(KEY), { json, etag: '"7"', ageSeconds: 0 }, 'at once');
  t.match(await a.cache.read(KEY, async () => undefined, options), { json, etag: '"7"' });
  t.match(await b.cache.read(KEY, async () => undefined, options), { json, etag: '"7"' }, 'from Redis');
  t.match(b.cache.peek(KEY), { json, etag: '"7"' });
  t.equal(parsed, 0);
  t.same(b.cache.peek(KEY)?.value, { version: 7, written: 1 }, 'until somebody wants the value');
  t.equal(parsed, 1);
  t.equal(b.cache.peek(KEY)?.value, b.cache.peek(KEY)?.value);
  t.equal(parsed, 1, 'which is made once');
  t.same(await b.results(), { hit: 5 });
});

t.test('100 readers in one process load once', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a } = processes;
  const load = createLoad('value', delay(50));

  const values = await Promise.all(Array.from({ length: 100 }, () => a.cache.get(KEY, load)));

  t.same([new Set(values), load.calls], [new Set(['value']), 1]);
  t.same(await a.results(), { miss: 1, coalesced: 99 });
  const failing = away();
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

t.test('null, 0, false and the empty string are values', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;

  for (const [index, value] of [null, 0, false, '', [], {}].entries()) {
    const key = { ...KEY, id: String(index) };
    t.same(await a.cache.get(key, async () => value), value);
    t.same(await a.cache.get(key, neverLoad), value);
    await isStored(a, key);
    t.same(await b.cache.get(key, neverLoad), value);
  }
});

t.test('that there is nothing is remembered for seconds, until it is created', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;

  t.equal(await a.cache.get(KEY, async () => undefined), undefined);
  t.equal((await a.read(KEY, neverLoad)).result, 'negative');
  await isStored(a);
  t.equal((await b.read(KEY, neverLoad)).result, 'negative');
  t.ok((await a.client.pttl(redisKey(KEY))) <= 5000);

  await a.cache.invalidate(KEY);
  t.equal(await a.cache.get(KEY, async () => 'created'), 'created');
  await until(
    'the other process knows',
    async () => (await b.cache.get(KEY, async () => 'created')) === 'created',
  );
});

t.test('what was filled together does not expire together', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a } = processes;
  const keys = Array.from({ length: 50 }, (_, index) => ({ ...KEY, id: String(index) }));
  const answer = 'a'.repeat(10);

  await Promise.all(keys.map((key) => a.cache.get(key, async () => answer, { ttlSeconds: 100 })));
  for (const key of keys) await isStored(a, key);

  const texts = await a.client.mget(keys.map(redisKey));
  const ttls = texts.map((text) => Number(text?.split(' ')[1]));
  t.ok(
    Math.min(...ttls) >= 90_000 && Math.max(...ttls) < 120_000,
    `${Math.min(...ttls)} ${Math.max(...ttls)}`,
  );
  t.ok(new Set(ttls).size > 40, 'no two alike');
  const lives = await Promise.all(keys.map((key) => a.client.pttl(redisKey(key))));
  t.ok(
    lives.every((life) => life > 0),
    'and nothing lives for ever',
  );
});

t.test('a stale value is served at once while one process refreshes it', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { url, a, b } = processes;
  const seed = await openProcess(t, url);
  await storeOld(seed, 70_000);
  const gate = createGate();
  const refresh = createLoad<string>('new', gate.opened);

  const answers = await Promise.all([a, b, a, b].map(({ cache }) => cache.get(KEY, refresh)));
  t.same(answers, ['old', 'old', 'old', 'old']);
  await until('one refreshes', () => refresh.calls > 0);
  t.match(await a.read(KEY, refresh), { value: 'old', result: 'stale', ageSeconds: 70 }, 'nobody waits');

  gate.open();
  await until('it is stored', async () => (await a.client.get(redisKey(KEY)))?.endsWith('"new"') ?? false);
  const kept = await Promise.all([a, b].map(({ cache }) => cache.get(KEY, neverLoad)));
  t.ok(kept.includes('new'), 'the one that refreshed has it at once');
  await distrust();
  for (const { cache } of [a, b]) t.equal(await cache.get(KEY, neverLoad), 'new');
  t.equal(refresh.calls, 1);
});

t.test('a refresh that fails hurts nobody', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  await storeOld(a, 70_000);

  const failing = createFailure(new Error('the database is away'));
  t.equal(await b.cache.get(KEY, failing), 'old');
  await until('it was tried', () => failing.calls === 1);
  await until('the lease was given back', async () => (await a.client.exists(leaseKey(KEY))) === 0);

  t.equal(await b.cache.get(KEY, neverLoad), 'old');
  t.same(unhandled, []);
});

t.test(
  'an old value is served when loading fails, with its age, but not in place of an answer',
  async (t) => {
    const processes = await openProcesses(t);
    if (!processes) return;
    const { url, a, b } = processes;
    await storeOld(b, 200_000);

    const failing = away();
    t.same(await a.read(KEY, failing), { value: 'old', ageSeconds: 200, result: 'stale' });
    t.ok(a.lines.some(({ message }) => message?.includes('an old value is served')));
    const third = await openProcess(t, url);
    const forbidden = createFailure(new AppError('forbidden', 'not yours'));
    await t.rejects(third.cache.get(KEY, forbidden), { code: 'forbidden' });
    await t.rejects(
      a.cache.get({ ...KEY, id: '2' }, failing),
      { code: 'unavailable' },
      'without one the error stands',
    );
    await a.cache.invalidate(KEY);
    await t.rejects(
      a.cache.get(KEY, failing),
      { code: 'unavailable' },
      'an invalidated value is gone for good',
    );
  },
);

t.test('while loading fails only the first reader waits for the failure', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  await storeOld(b, 200_000);
  const first = createGate();
  const second = createGate();
  const gates = [first.opened, second.opened];
  let calls = 0;
  const hanging = async (): Promise<string> => {
    await gates[(calls += 1) - 1];
    throw new AppError('timeout', 'too slow');
  };

  const early = a.cache.get(KEY, hanging);
  await until('it is loaded', () => calls === 1);
  first.open();
  t.equal(await early, 'old');
  await distrust();
  t.match(await a.read(KEY, hanging), { value: 'old', result: 'stale' }, 'before the second load has failed');
  await until('it is tried again, behind the answer', () => calls === 2);
  second.open();
  await until('the lease was given back', async () => (await a.client.exists(leaseKey(KEY))) === 0);

  await distrust();
  t.equal(await a.cache.get(KEY, async () => 'new'), 'old');
  await until('the database is back', async () => (await a.cache.get(KEY, neverLoad)) === 'new');
});

t.test('five minutes after its second ttl an old value is gone, and the error is the answer', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  await storeOld(b);
  const lifeMs = Number((await b.client.get(redisKey(KEY)))?.split(' ')[2]);
  t.ok(lifeMs >= 2 * 54_000 + 300_000 && lifeMs < 2 * 80_000 + 300_000, `${lifeMs} ms`);
  await age(b, lifeMs - 1500);

  t.equal(await a.cache.get(KEY, away()), 'old', 'shortly before');
  await until('its life has ended', async () => (await a.client.exists(redisKey(KEY))) === 0);
  await until('no process keeps it longer', async () => {
    const [end] = await Promise.allSettled([a.cache.get(KEY, away())]);
    return end.status === 'rejected' && (end.reason as AppError).code === 'unavailable';
  });
});

t.test(
  'what may have been invalidated unheard is not served for a failure once Redis can be asked',
  async (t) => {
    const processes = await openProcesses(t);
    if (!processes) return;
    const { a, b } = processes;
    await storeOld(b);

    // Not by its state: that says ready until the end of the connection is noticed.
    const again = once(b.redis.client, 'ready');
    b.redis.client.disconnect(true);
    await a.client.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
    await a.client.unlink(redisKey(KEY));
    await again;
    await until('it is connected again', () => b.redis.ready());

    await until('the loss was noticed', () => b.cache.peek(KEY) === undefined);
    await t.rejects(b.cache.get(KEY, away()), { code: 'unavailable' });
  },
);

t.test('Age is whole seconds since the load began, by no clock but that of Redis', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  const slow = await a.read(KEY, async () => {
    await delay(1100);
    return 'slow';
  });
  t.match(slow, { ageSeconds: 1, result: 'miss' }, 'the value may be as old as the question');
  await isStored(a);
  const { now } = Date;
  t.teardown(() => (Date.now = now));
  Date.now = () => now() - 3_600_000;

  t.ok((await b.cache.read(KEY, neverLoad)).ageSeconds >= 1);
  await age(a, 50_999);
  b.client.disconnect(true);
  await until('it asks Redis again', async () => {
    const { ageSeconds } = await b.cache.read(KEY, neverLoad);
    return ageSeconds >= 50;
  });
  const seen = (await b.cache.read(KEY, neverLoad)).ageSeconds;
  t.ok(seen >= 50 && seen < 60, `${seen} s`);

  const other = { ...KEY, id: '2' };
  await a.cache.get(other, async () => 'from the future');
  await isStored(a, other);
  await age(a, -10_000, other);
  t.equal(
    await b.cache.get(other, async () => 'now'),
    'now',
    'what is younger than 0 lived by another clock',
  );
});

t.test('what is too big passes through, and nobody waits for it', async (t) => {
  const processes = await openProcesses(t, { maxRows: 3 });
  if (!processes) return;
  const { a, b } = processes;
  const cases: [string, unknown, object][] = [
    ['rows', [1, 2, 3, 4], {}],
    ['page', { items: [1, 2, 3, 4] }, { rows: (page: { items: unknown[] }) => page.items.length }],
    ['bytes', 'x'.repeat(2 ** 20), {}],
    ['bytes that are not characters', 'ä'.repeat(2 ** 19), {}],
    ['no JSON', 5n, {}],
    ['no JSON at all', () => 5, {}],
  ];

  for (const [id, value, options] of cases) {
    const key = { ...KEY, id };
    const load = createLoad(value, delay(50));
    const both = await Promise.all([a, b].map(({ cache }) => cache.get(key, load, options)));
    t.same(both, [value, value]);
    t.equal(load.calls, 2, `${id}: each process loads for itself`);
    t.equal(await a.client.get(leaseKey(key)), 'too-big', 'and for some seconds no lease is asked for');
  }
  t.same(await a.client.keys('*}'), [], 'nothing was stored');
  for (const [id, value] of [
    ['rows that fit', [1, 2, 3]],
    ['bytes that fit', 'x'.repeat(2 ** 20 - 2)],
  ] as const) {
    await a.cache.get({ ...KEY, id }, async () => value);
    await isStored(a, { ...KEY, id });
    t.same(await b.cache.get({ ...KEY, id }, async () => 'loaded again'), value, id);
  }
});

t.test('a process keeps 32 MiB of JSON, whatever is read', async (t) => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const { cache } = await openProcess(t, undefined, { singleProcess: true, ttlSeconds: 3600 });
  const read = (index: number) =>
    cache.read({ ...KEY, id: String(index) }, async () => String(index).padEnd(300_000, 'x'));
  collect();
  const before = process.memoryUsage();

  for (let index = 0; index < 160; index += 1) await read(index);

  collect();
  const after = process.memoryUsage();
  const grownMiB = (after.heapUsed + after.external - before.heapUsed - before.external) / 2 ** 20;
  t.ok(grownMiB > 25 && grownMiB < 40, `${grownMiB.toFixed(1)} MiB of 46`);
  t.ok(cache.peek({ ...KEY, id: '159' }) && !cache.peek({ ...KEY, id: '0' }), 'the last ones');
});

t.test('who holds a lease that nobody gave is not waited for', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a } = processes;
  const foreign: [string, () => Promise<unknown>][] = [
    ['one without an end', () => a.client.set(leaseKey(KEY), 'x')],
    ['one that ends too late', () => a.client.set(leaseKey(KEY), 'x', 'PX', 60_000)],
    ['another type', () => a.client.lpush(leaseKey(KEY), 'x')],
  ];

  for (const [name, put] of foreign) {
    await a.cache.invalidate(KEY);
    await put();
    const { value, tookMs } = await timed(a.cache.get(KEY, async () => name));
    t.equal(value, name);
    t.ok(tookMs < 1500, `${name}: ${tookMs.toFixed(0)} ms`);
    await isStored(a);
  }
});

t.test('garbage under a key of the cache is a miss, and gets replaced', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { url, a } = processes;
  const { client } = a;
  const at = redisKey(KEY);
  const times = { ttlMs: 60_000, lifeMs: 420_000, loadedAtMs: 0 };
  const owner = { id: encodeKey(KEY), place: encodeKey(KEY), shape: '' };
  const entry = encodeEntry(new CacheEntry({ json: '{"total":12345}' }, times, { etag: '"1"' }), owner);
  const put = (text: string | Buffer) => client.set(at, text, 'PX', 400_000);
  const other = { ...KEY, tenant: 'evil' };
  const foreign = encodeEntry(new CacheEntry({ json: '"foreign"' }, times), {
    id: encodeKey(other),
    place: encodeKey(other),
    shape: '',
  });
  const flipped = (byte: number) => {
    const bytes = Buffer.from(entry);
    bytes[byte] = (bytes[byte] ?? 0) ^ 0x04;
    return put(bytes);
  };
  const garbage: [string, () => Promise<unknown>][] = [
    ['another type', () => client.lpush(at, 'x')],
    ['another format', () => put(entry.replace(/^\d+/, '1'))],
    ['JSON alone', () => put('{"total":12345}')],
    ['no entry', () => put('null')],
    ['nothing', () => put('')],
    ['no expiry', () => client.set(at, entry)],
    ['an end that lies too far ahead', () => client.set(at, entry, 'PX', 500_000)],
    ['64 MB', () => client.setrange(at, 64 * 2 ** 20, 'x')],
    ['64 MB that begin well', () => put(entry).then(() => client.setrange(at, 64 * 2 ** 20, 'x'))],
    ['the entry of another tenant', () => put(foreign)],
    ...[1, 100, 2000].map((size): [string, () => Promise<unknown>] => [
      `${size} random bytes`,
      () => put(randomBytes(size)),
    ]),
    ...Array.from({ length: entry.length - 1 }, (_, length): [string, () => Promise<unknown>] => [
      `cut off after ${length + 1}`,
      () => put(entry.slice(0, length + 1)),
    ]),
    ...Array.from({ length: entry.length }, (_, byte): [string, () => Promise<unknown>] => [
      `a wrong bit in byte ${byte}`,
      () => flipped(byte),
    ]),
  ];
  await put(entry);
  t.same(await a.cache.get(KEY, neverLoad), { total: 12345 }, 'the whole of it is no garbage');

  const sentBytes = async () => Number(/total_net_output_bytes:(\d+)/.exec(await client.info('stats'))?.[1]);
  const before = await sentBytes();

  const wrong: string[] = [];
  for (const [name, putGarbage] of garbage) {
    await a.cache.invalidate(KEY);
    await putGarbage();
    const load = createLoad(name);
    const value = await a.cache.get(KEY, load);
    if (value !== name || load.calls !== 1) wrong.push(`${name}: ${String(value)}`);
    await until(name, async () => (await client.get(at))?.endsWith(JSON.stringify(name)) ?? false);
  }
  t.same(wrong, []);
  t.ok((await sentBytes()) - before < 2 ** 24, 'nor did the 64 MB travel');
  t.same(await a.results(), { hit: 1, miss: garbage.length }, 'and none was an error');
  const b = await openProcess(t, url);
  t.equal(await b.cache.get(KEY, neverLoad), garbage.at(-1)?.[0], 'what replaced it is read by others');
});

const warnings = (processes: CacheProcess[]) =>
  processes.flatMap(({ lines }) => lines).filter(({ level }) => Number(level) >= 40);

t.test('two releases with different shapes keep their values side by side', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  const before = z.object({ total: z.int() });
  const after = before.extend({ currency: z.string() });
  t.not(shapeOf(before), shapeOf(after));
  t.equal(shapeOf(after), shapeOf(before.extend({ currency: z.string() })));

  const old = createLoad({ total: 1 });
  const value = createLoad({ total: 1, currency: 'EUR' });
  const stored = (count: number) =>
    until(`${count} values in Redis`, async () => {
      const keys = await a.client.keys('*');
      return keys.length === count && !keys.some((key) => key.endsWith(':lease'));
    });
  for (let round = 1; round <= 3; round += 1) {
    t.same(await a.cache.get(KEY, old, { shape: shapeOf(before) }), old.value);
    t.same(await b.cache.get(KEY, value, { shape: shapeOf(after) }), value.value);
    await stored(2);
    await distrust();
  }
  t.same([old.calls, value.calls], [1, 1], 'neither replaced the value of the other');
  t.same(warnings([a, b]), []);

  await b.cache.invalidate(KEY);
  await stored(0);
  await until('a release reaches what the other stored', () => a.cache.peek(KEY) === undefined);
});

t.test('a value of another generation is replaced, not left behind, and delays nobody', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  const keys = async () => (await a.client.keys('*')).filter((key) => !key.includes(':lease'));
  for (const generation of ['1', '2', '3', '4']) {
    const load = createLoad(generation);
    const key = { ...KEY, generation };
    t.equal(await a.cache.get(key, load), generation);
    await until(
      'it is stored',
      async () => (await a.client.get(redisKey(KEY)))?.endsWith(`"${generation}"`) ?? false,
    );
    t.equal(await b.cache.get(key, neverLoad), generation);
  }
  t.same(await keys(), [redisKey(KEY)]);
  t.same(warnings([a, b]), [], 'which is no damage');

  const { opened, open } = createGate();
  const slow = a.cache.get({ ...KEY, generation: '5' }, createLoad('5', opened));
  const { value, tookMs } = await timed(b.cache.get({ ...KEY, generation: '6' }, async () => '6'));
  t.equal(value, '6');
  t.ok(tookMs < 2000, `${tookMs.toFixed(0)} ms`);
  open();
  t.equal(await slow, '5');
});

t.test('who asks for what does not exist pushes nothing of others out', async (t) => {
  const { cache } = await openProcess(t, undefined, { singleProcess: true });
  await cache.get(KEY, async () => 'value');
  const absent = (tenant: string, id: number) => ({ tenant, name: 'order', id: `random ${id}` });
  await cache.get(absent('globex', 0), async () => undefined);
  for (let id = 0; id < 6000; id += 1) await cache.get(absent('evil', id), async () => undefined);

  t.equal(cache.peek(KEY)?.value, 'value');
  t.ok(cache.peek(absent('globex', 0)), 'an absence neither');
  t.ok(cache.peek(absent('evil', 5999)) && !cache.peek(absent('evil', 5000)), 'only its own');
  await cache.invalidate(absent('evil', 5999));
  t.equal(await cache.get(absent('evil', 5999), async () => 'created'), 'created');
});

t.test('a full Redis is a slower cache, not an error', async (t) => {
  const server = await startRedis(t, { args: ['--maxmemory-policy', 'noeviction'] });
  if (!server) return;
  const a = await openProcess(t, server.url);
  await a.cache.get(KEY, async () => 'kept');
  await isStored(a);
  const b = await openProcess(t, server.url);
  await a.client.config('SET', 'maxmemory', '1');

  t.equal(await b.cache.get(KEY, neverLoad), 'kept', 'what is in it is served');
  const other = { ...KEY, id: '2' };
  t.equal(await b.cache.get(other, async () => 'loaded'), 'loaded');
  t.match(await b.results(), { error: 1, hit: 1, miss: 1 });
  await a.cache.invalidate(KEY);
  t.equal(await a.client.exists(redisKey(KEY)), 0, 'and an invalidation still works');

  await a.client.config('SET', 'maxmemory', '0');
  t.equal(await a.cache.get(other, async () => 'again'), 'again');
  await isStored(a, other);
});

t.test('nobody joins a load that hangs for ever', async (t) => {
  const flights = createSingleFlight<string>(20);
  void flights.start('id', () => new Promise(() => undefined));

  t.ok(flights.find('id'));
  await until('it is overdue', () => flights.find('id') === undefined);
  t.equal(await flights.start('id', async (mine) => `mine: ${mine()}`), 'mine: true');
});

t.test('a cache that is switched off loads every time', async (t) => {
  const cache = createNoCache();
  const load = createLoad('value');

  t.equal(await cache.get(KEY, load), 'value');
  t.match(await cache.read(KEY, load), { value: 'value', json: '"value"', etag: '', ageSeconds: 0 });
  t.match(await cache.read(KEY, load, { etagOf: (value) => `"${value}"`, write: () => '[]' }), {
    json: '[]',
    etag: '"value"',
  });
  t.match(await cache.read(KEY, async () => undefined, { etagOf: () => 'x' }), { json: undefined, etag: '' });
  t.equal(cache.peek(KEY), undefined);
  await cache.invalidate(KEY);
  t.equal(load.calls, 3);
});

t.test('a hot hit costs microseconds', async (t) => {
  const lone = await openProcess(t, undefined, { singleProcess: true });
  const page = Array.from({ length: 20 }, (_, index) => ({ id: index, name: 'x'.repeat(100) }));
  await lone.cache.get(KEY, async () => page);
  const reads = 20_000;

  const { tookMs } = await timed(
    (async () => {
      for (let count = 0; count < reads; count += 1) lone.cache.peek(KEY);
    })(),
  );

  const microseconds = (tookMs * 1000) / reads;
  t.comment(`${microseconds.toFixed(2)} µs`);
  t.ok(microseconds < 50);
});

t.test('with a Redis of its own, or none', { jobs: 4 }, async (t) => {
  void t.test('with Redis and the database gone, what this process kept is served', async (t) => {
    const server = await startRedis(t);
    if (!server) return;
    const a = await openProcess(t, server.url, { commandTimeoutMs: 150 });
    await a.cache.get(KEY, async () => 'old');
    await server.stop();
    await until('it is gone', () => !a.redis.ready());
    await distrust();

    const failing = away();
    t.match(await a.read(KEY, failing), { value: 'old', result: 'stale' });
    t.equal(await a.cache.get(KEY, failing), 'old');
    t.equal(failing.calls, 1, 'and it is not asked for at every read');
  });

  void t.test('without Redis it is a cache of one second that loads once at a time', async (t) => {
    const lone = await openProcess(t, undefined);
    const load = createLoad('first');

    await Promise.all(Array.from({ length: 50 }, () => lone.cache.get(KEY, load)));
    t.equal(load.calls, 1);
    load.value = 'second';
    const { tookMs } = await timed(
      until('it is loaded again', async () => (await lone.cache.get(KEY, load)) === 'second'),
    );
    t.ok(tookMs > 900, `believed for ${tookMs.toFixed(0)} ms`);
    await lone.cache.invalidate(KEY);
    load.value = 'third';
    t.equal(await lone.cache.get(KEY, load), 'third');
  });

  void t.test(
    'a single process trusts its entries while they are fresh, then refreshes them in the background',
    async (t) => {
      const { cache, read } = await openProcess(t, undefined, { ttlSeconds: 1.5, singleProcess: true });
      let loads = 0;
      const load = async () => ++loads;
      t.equal(await cache.get(KEY, load), 1);
      await distrust();
      t.equal((await read(KEY, load)).result, 'hit', 'longer than another process would be trusted for');

      await until('it is stale', async () => (await read(KEY, load)).result === 'stale');
      await until('it was refreshed', () => loads === 2);
      t.equal(await cache.get(KEY, load), 2);
      await cache.invalidate(KEY);
      t.equal(await cache.get(KEY, load), 3, 'an invalidation counts at once');
    },
  );

  void t.test('Redis that is gone costs a read nothing, one that hangs a command timeout', async (t) => {
    const server = await startRedis(t);
    if (!server) return;
    const commandTimeoutMs = 150;
    const a = await openProcess(t, server.url, { ttlSeconds: 0.01, commandTimeoutMs });
    const read = () => timed(a.cache.get(KEY, async () => 'value'));
    await read();

    server.freeze();
    await delay(20);
    const costs: number[] = [];
    while (a.redis.ready()) {
      costs.push((await read()).tookMs);
      await delay(30);
    }
    const median = costs.toSorted((x, y) => x - y)[Math.floor(costs.length / 2)] ?? 0;
    t.ok(median < commandTimeoutMs + SLACK_MS, `hanging: ${costs.map((ms) => ms.toFixed(0)).join(' ')} ms`);
    const invalidating = await timed(a.cache.invalidate(KEY));
    t.ok(invalidating.tookMs < commandTimeoutMs);
    t.ok((await read()).tookMs < commandTimeoutMs);
    server.thaw();
    await until('it goes on', () => a.redis.ready());

    await server.stop();
    await until('it is gone', () => !a.redis.ready());
    const free = [];
    for (let count = 0; count < 21; count += 1) free.push((await read()).tookMs);
    t.ok(
      (free.toSorted((x, y) => x - y)[10] ?? Infinity) < 5,
      `gone: ${Math.max(...free).toFixed(2)} ms at most`,
    );
    t.ok(((await a.results()).error ?? 0) >= 1, 'the failures were counted');

    await server.start();
    await until('it is back', () => a.redis.ready());
    await until('it is used again', async () => {
      await read();
      return (await a.client.exists(redisKey(KEY))) === 1;
    });
  });

  void t.test('a key that this process knows does not wait out a Redis that is silent', async (t) => {
    const server = await startRedis(t);
    if (!server) return;
    const proxy = await startTcpProxy(t, server.port);
    const commandTimeoutMs = 10_000;
    const a = await openProcess(t, `redis://127.0.0.1:${proxy.port}`, { commandTimeoutMs });
    await a.cache.get(KEY, async () => 'first');
    await isStored(a);
    await distrust();

    proxy.delayMs = 300;
    t.equal(
      await a.cache.get(KEY, () => new Promise(() => undefined)),
      'first',
      'a late answer is better than none',
    );
    proxy.delayMs = 0;
    await distrust();

    proxy.hold();
    const { tookMs } = await timed(a.cache.get(KEY, async () => 'second'));
    t.ok(tookMs < commandTimeoutMs / 2, `${tookMs} ms`);
    t.equal(await a.cache.get(KEY, neverLoad), 'second');
    proxy.release();
    await a.client.ping();
    t.same(await a.client.keys('*lease'), [], 'and leaves no lease behind');
  });

  void t.test('a lease whose answer got lost makes nobody wait', async (t) => {
    const server = await startRedis(t);
    if (!server) return;
    const a = await openProcess(t, server.url, { commandTimeoutMs: 150 });

    server.freeze();
    t.equal(await a.cache.get(KEY, async () => 'value'), 'value');
    server.thaw();
    await until('it goes on', () => a.redis.ready());
    await a.client.ping();

    t.same(await a.client.keys('*lease'), []);
  });

  void t.test('the value and its lease are of one cluster slot, whatever the key', async (t) => {
    const dir = t.testdir();
    const server = await startRedis(t, { args: ['--cluster-enabled', 'yes', '--dir', dir] });
    if (!server) return;
    const node = new Redis(server.url);
    t.teardown(() => node.disconnect());
    for (let slot = 0; slot < 16_384; slot += 2048) {
      await node.cluster(
        'ADDSLOTS',
        Array.from({ length: 2048 }, (_, index) => slot + index),
      );
    }
    await until('the cluster serves', async () => (await node.cluster('INFO')).includes('cluster_state:ok'));
    const a = await openProcess(t, server.url);

    for (const part of ['1', '', '{', '}', '{}', '}{', '{x}', 'ä', '\ud800', ':lease']) {
      const key = { tenant: part, name: 'order', id: part };
      t.equal(await a.cache.get(key, async () => 'value'), 'value');
      await isStored(a, key);
      await a.cache.invalidate(key);
      t.equal(await a.cache.get(key, async () => 'value', { shape: 'other' }), 'value');
      await until('it is stored', async () => (await node.dbsize()) === 1);
      await a.cache.invalidate(key);
      t.equal(await node.dbsize(), 0, 'neither a value nor a lease of any shape');
    }
    t.same(await a.results(), { miss: 20 }, 'no command was refused');
  });
});

t.test('nothing above left a rejection unhandled', async (t) => {
  t.same(unhandled, []);
});
