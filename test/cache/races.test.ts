import { setImmediate as nextTurn, setTimeout as delay } from 'node:timers/promises';
import * as fc from 'fast-check';
import t, { type Test } from 'tap';
import { AppError } from '../../src/errors.ts';
import { redisUrl } from '../support/redis.ts';
import { until } from '../support/until.ts';
import { openTable } from './cache-table.ts';
import {
  KEY,
  createGate,
  createLoad,
  isStored,
  neverLoad,
  openProcess,
  openProcesses,
  redisKey,
  storeOld,
  type CacheProcess,
} from './cache-world.ts';

/** How long a process may believe what it keeps. */
const TRUST_MS = 1000;

const WRITES: { name: string; before: string | undefined; sql: string; after: string | undefined }[] = [
  { name: 'an update', before: 'old', sql: `update thing set value = 'new'`, after: 'new' },
  { name: 'a delete', before: 'old', sql: 'delete from thing', after: undefined },
  { name: 'a create', before: undefined, sql: `insert into thing values ('1', 'new')`, after: 'new' },
];

interface Round {
  write: (typeof WRITES)[number];
  commit: boolean;
  reader: CacheProcess;
  writer: CacheProcess;
}

/**
 * The reader has read the row of before, and its load is still under way, when the other one commits (or
 * rolls back) and invalidates. Tells when the reader's load was over.
 */
async function race(t: Test, table: Awaited<ReturnType<typeof openTable>>, round: Round) {
  const { write, reader, writer } = round;
  const { client } = table;
  await client.query('truncate thing');
  if (write.before) await client.query(`insert into thing values ('1', $1)`, [write.before]);
  await table.hold();
  const early = reader.cache.get(KEY, table.load('1'));
  await table.isHeld();

  await client.query(`begin; ${write.sql}`);
  await client.query(round.commit ? 'commit' : 'rollback');
  if (round.commit) await writer.cache.invalidate(KEY);
  if (round.commit) t.equal(await writer.cache.get(KEY, table.load('1')), write.after, 'who writes reads it');
  await table.letGo();
  t.equal(await early, write.before, 'who came before gets what there was');
  return performance.now();
}

t.test('a load that a write overtakes leaves no old value behind: one process, no Redis', async (t) => {
  const table = await openTable(t);
  for (const singleProcess of [true, false]) {
    for (const write of WRITES) {
      const lone = await openProcess(t, undefined, { singleProcess });
      await race(t, table, { write, commit: true, reader: lone, writer: lone });
      t.equal(
        await lone.cache.get(KEY, table.load('1')),
        write.after,
        `${write.name}, singleProcess: ${singleProcess}`,
      );
    }
  }
});

t.test('a load that a write overtakes leaves no old value behind: two processes, one Redis', async (t) => {
  const table = await openTable(t);
  const url = await redisUrl(t);
  if (!url) return;
  for (const write of WRITES) {
    for (const same of [true, false]) {
      const reader = await openProcess(t, url);
      const writer = same ? reader : await openProcess(t, url);
      await reader.client.flushdb();
      await race(t, table, { write, commit: true, reader, writer });

      t.equal(await reader.cache.get(KEY, table.load('1')), write.after, `${write.name}, same: ${same}`);
      const text = await reader.client.get(redisKey(KEY));
      t.ok(!text?.includes('"old"'), 'and Redis has no old value either');
    }
  }
});

t.test(
  'a process that hears nothing has no old value for longer than a second, and stores none',
  async (t) => {
    const table = await openTable(t);
    const url = await redisUrl(t);
    if (!url) return;
    const [write] = WRITES as [(typeof WRITES)[number]];
    for (const redis of [url, undefined]) {
      const reader = await openProcess(t, redis, { deaf: true });
      const writer = await openProcess(t, redis);
      if (redis) await writer.client.flushdb();
      const overAtMs = await race(t, table, { write, commit: true, reader, writer });

      let lastOldMs = -Infinity;
      await until('the new value is there', async () => {
        const askedAtMs = performance.now();
        const value = await reader.cache.get(KEY, table.load('1'));
        if (value !== 'new') lastOldMs = askedAtMs;
        return value === 'new';
      });
      t.ok(lastOldMs - overAtMs < TRUST_MS, `${(lastOldMs - overAtMs).toFixed(0)} ms`);
      if (redis) t.match(await writer.client.get(redisKey(KEY)), /"new"$/);
    }
  },
);

t.test('a load that a rollback overtakes keeps what there is', async (t) => {
  const table = await openTable(t);
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  for (const write of WRITES) {
    await a.cache.invalidate(KEY);
    await race(t, table, { write, commit: false, reader: a, writer: b });
    await isStored(a);
    for (const { cache } of [a, b]) t.equal(await cache.get(KEY, neverLoad), write.before, write.name);
    t.equal(await table.loads(), 1, 'the one load was good');
  }
});

t.test('one write invalidates all keys that it touches, whatever is loading meanwhile', async (t) => {
  const table = await openTable(t);
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  const keys = ['order', 'list', 'summary'].map((name) => ({ ...KEY, name }));
  await table.client.query(`insert into thing values ('1', 'old')`);
  for (const [index, held] of keys.entries()) {
    await table.client.query(`update thing set value = 'old'`);
    await a.cache.invalidate(...keys);
    for (const key of keys) if (key !== held) await a.cache.get(key, table.load('1'));
    await table.hold();
    const early = a.cache.get(held, table.load('1'));
    await table.isHeld();

    await table.client.query(`update thing set value = 'new ${index}'`);
    await b.cache.invalidate(...keys);
    await table.letGo();
    await early;

    for (const key of keys) {
      await until(
        'the other process follows',
        async () => (await a.cache.get(key, table.load('1'))) === `new ${index}`,
        TRUST_MS,
      );
      t.equal(await b.cache.get(key, table.load('1')), `new ${index}`);
    }
  }
});

t.test('a read of Redis that an invalidation overtakes is not kept', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const { a, b } = processes;
  await storeOld(a);

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
    const processes = await openProcesses(t);
    if (!processes) return;
    const { a, b } = processes;
    await storeOld(b, 200_000);
    const gate = createGate();
    const load = createLoad('unused', gate.opened);
    const failing = async () => {
      await load();
      throw new AppError('timeout', 'too slow');
    };
    const early = a.cache.get(KEY, failing);
    await until('it is loaded', () => load.calls === 1);

    await a.cache.invalidate(KEY);
    gate.open();

    t.equal(await early, 'old');
    await t.rejects(a.cache.get(KEY, failing), { code: 'timeout' });
  },
);

t.test(
  'with Redis lost between commit and invalidation, the invalidation is done when it is back',
  async (t) => {
    const processes = await openProcesses(t);
    if (!processes) return;
    const { url, a, b } = processes;
    await storeOld(a);

    a.client.disconnect();
    await until('it is gone', () => !a.redis.ready());
    await a.cache.invalidate(KEY);
    t.equal(await a.cache.get(KEY, async () => 'new'), 'new', 'this process does not serve the old value');
    t.equal(await b.cache.get(KEY, neverLoad), 'old', 'those that Redis has not told do');

    await a.client.connect();
    await until('the debt was paid', async () => !(await b.client.get(redisKey(KEY)))?.includes('old'));
    await until('others follow', async () => (await b.cache.get(KEY, async () => 'new')) === 'new', TRUST_MS);
    const late = await openProcess(t, url);
    t.equal(await late.cache.get(KEY, async () => 'new'), 'new');
  },
);

t.test(
  'an invalidation that Redis refuses is tried again every second, and nothing old is read or stored meanwhile',
  async (t) => {
    const processes = await openProcesses(t);
    if (!processes) return;
    const { a, b } = processes;
    await storeOld(a);
    const gate = createGate();
    const other = { ...KEY, id: '2' };
    const loading = createLoad('old', gate.opened);
    const early = a.cache.get(other, loading);
    await until('it is loaded', () => loading.calls === 1);

    t.teardown(() => b.client.call('ACL', 'SETUSER', 'default', '+unlink'));
    await b.client.call('ACL', 'SETUSER', 'default', '-unlink');
    await a.cache.invalidate(KEY, other);
    gate.open();
    t.equal(await early, 'old');
    t.equal(await a.cache.get(KEY, async () => 'new'), 'new');
    t.equal(await b.client.exists(redisKey(other)), 0);
    t.match(await b.client.get(redisKey(KEY)), /"old"$/);
    t.ok(a.lines.some(({ message }) => message?.includes('could not use Redis')));

    await b.client.call('ACL', 'SETUSER', 'default', '+unlink');
    await until('it was done', async () => (await b.client.exists(redisKey(KEY))) === 0);
  },
);

t.test(
  'a write whose process dies before the invalidation is seen after two ttls and a second',
  async (t) => {
    const ttlSeconds = 0.4;
    const processes = await openProcesses(t, { ttlSeconds });
    if (!processes) return;
    const { a, b } = processes;
    const loadedAtMs = performance.now();
    await storeOld(a);
    // Committed, and its process is gone.
    const load = async () => 'new';

    let lastOldMs = -Infinity;
    await until('the new value is there', async () => {
      const askedAtMs = performance.now();
      const value = await b.cache.get(KEY, load);
      if (value === 'old') lastOldMs = askedAtMs;
      return value === 'new';
    });
    const boundMs = 2 * 1.1 * ttlSeconds * 1000 + TRUST_MS;
    t.ok(lastOldMs - loadedAtMs < boundMs, `${(lastOldMs - loadedAtMs).toFixed(0)} of ${boundMs} ms`);
  },
);

t.test('no reader sees an older value than an invalidation that it knows of', async (t) => {
  const processes = await openProcesses(t, { ttlSeconds: 0.05 });
  if (!processes) return;
  const { a, b } = processes;
  let version = 0;
  let invalidated = 0;
  let reads = 0;
  let overtaken = 0;
  const stopped = new AbortController();
  const load = async (): Promise<number> => {
    const read = version;
    await delay(Math.random() * 5);
    if (version !== read) overtaken += 1;
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
  // As much as it takes, on a slow machine as on a fast one, until enough has met.
  for (let round = 0; round < 100 || reads < 300 || overtaken < 50; round += 1) {
    version += 1;
    await a.cache.invalidate(KEY);
    invalidated = version;
    await delay(Math.random() * 10);
  }
  stopped.abort();
  await Promise.all(work);
  t.comment(`${reads} reads, ${version} invalidations, ${overtaken} of them during a load`);
});

t.test('a value never crosses tenants, whatever their names and ids, nor is an older one read', async (t) => {
  const processes = await openProcesses(t);
  if (!processes) return;
  const caches = [processes.a.cache, processes.b.cache];
  const odd = [
    '',
    'a',
    'a:b',
    'a:',
    ':b',
    '","',
    '}',
    '{x}',
    'a"',
    'a\\',
    '\\u0061',
    '\0',
    ' a',
    'ä',
    'a\u0308',
  ];
  const part = fc.oneof(
    fc.constantFrom(...odd, '\ud800', '\ud801', '__proto__', 'null', 'order', ':lease'),
    fc.string({ unit: 'binary', maxLength: 5 }),
  );
  const step = fc.record({
    does: fc.constantFrom('read', 'read', 'peek', 'write', 'delete'),
    cache: fc.nat(1),
    tenant: fc.nat(3),
    id: fc.nat(2),
    /** Turns of the event loop: before the next step begins, and while the value is loaded. */
    pause: fc.nat(3),
    slowness: fc.nat(4),
  });
  const tenants = fc.uniqueArray(part, { minLength: 4, maxLength: 4 });
  const ids = fc.uniqueArray(part, { minLength: 3, maxLength: 3 });
  let run = 0;

  await fc.assert(
    fc.asyncProperty(tenants, ids, fc.array(step, { minLength: 5, maxLength: 40 }), async (ts, is, steps) => {
      const name = `run ${(run += 1)}`;
      // What each row has been, and since which of these states each process must know better.
      const rows = ts.map((tenant) =>
        is.map((id) => ({ key: { tenant, name, id }, states: [undefined] as unknown[], since: [0, 0] })),
      );
      const work = steps.map(async ({ does, cache: process, tenant, id, slowness }, index) => {
        await turns(steps.slice(0, index).reduce((sum, { pause }) => sum + pause, 0));
        const cache = caches[process];
        const row = rows[tenant]?.[id];
        if (!cache || !row) throw new Error('no such row');
        const { key, states, since } = row;
        const load = async () => {
          const value = states.at(-1);
          await turns(slowness);
          return value;
        };
        const least = since[process] ?? 0;
        if (does === 'read' || does === 'peek') {
          const entry = does === 'read' ? await cache.read(key, load) : cache.peek(key);
          if (!entry) return;
          const seen = JSON.stringify(entry.value);
          const wanted = states.slice(least).map((state) => JSON.stringify(state));
          if (!wanted.includes(seen)) throw new Error(`${seen} is none of ${wanted.join()}`);
          return;
        }
        states.push(does === 'write' ? { ...key, version: states.length } : undefined);
        const written = states.length - 1;
        await cache.invalidate(key);
        since[process] = Math.max(since[process] ?? 0, written);
      });
      await Promise.all(work);
    }),
    { numRuns: 60, interruptAfterTimeLimit: 5000 },
  );
  t.comment(`${run} runs`);
});

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await nextTurn();
}
