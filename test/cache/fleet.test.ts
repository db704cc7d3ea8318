import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import type { CacheKey } from '../../src/cache/serialization.ts';
import { forgetProcess, registerProcess } from '../support/processes.ts';
import { startRedis } from '../support/redis.ts';
import { until } from '../support/until.ts';
import { loadQuery, openTable } from './cache-table.ts';
import { distrust, isStored, neverLoad, openProcess, redisKey, storeOld, timed } from './cache-world.ts';
import type { Answer, Command } from './cache-worker.ts';

// Real processes on one Redis and one Postgres. The tests run in order and share them: starting one takes seconds.

/** How long a dead process can keep the others waiting; what comes on top is the load, and a busy machine. */
const LEASE_MS = 2000;
/** How long they would wait for a living one. */
const WAIT_MS = 5000;

async function startWorker(t: Test, args: string[]) {
  const script = fileURLToPath(new URL('cache-worker.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', script, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const { pid = 0 } = child;
  registerProcess(pid, 'cache-worker');
  const exited = once(child, 'exit').then(() => forgetProcess(pid));
  t.teardown(() => child.kill('SIGKILL') && exited);
  const waiting = new Map<number, (answer: Answer) => void>();
  const lines = createInterface(child.stdout);
  await once(lines, 'line');
  lines.on('line', (line) => {
    if (line === 'ready') return;
    const answer = JSON.parse(line) as Answer;
    waiting.get(answer.at)?.(answer);
  });

  let count = 0;
  const ask = (command: Omit<Command, 'at'>): Promise<Answer> => {
    count += 1;
    child.stdin.write(`${JSON.stringify({ ...command, at: count })}\n`);
    return new Promise((resolve) => waiting.set(count, resolve));
  };
  return {
    signal: (name: NodeJS.Signals) => child.kill(name),
    invalidate: (key: CacheKey) => ask({ key, redis: true }),
    read: (key: CacheKey, { times = 1, redis = true } = {}) =>
      ask({ key, redis, read: { times, query: loadQuery('1') } }),
  };
}

t.test('real processes', async (t) => {
  const [server, table] = await Promise.all([startRedis(t), openTable(t)]);
  if (!server) return;
  const workers = await Promise.all([
    startWorker(t, [server.url, table.url]),
    startWorker(t, [server.url, table.url]),
    startWorker(t, [server.url, table.url]),
  ]);
  const [a, b, c] = workers;
  const seed = await openProcess(t, server.url);
  const key = (id: string): CacheKey => ({ tenant: 'acme', name: 'order', id });
  const write = (value: string) =>
    table.client.query(
      `insert into thing values ('1', $1) on conflict (id) do update set value = excluded.value`,
      [value],
    );
  const readAll = (id: string, redis = true) =>
    Promise.all(
      workers.map((worker, index) => worker.read(key(id), { times: index === 0 ? 166 : 167, redis })),
    );

  await t.test('500 cold reads of one thing on 3 processes load it once.', async (t) => {
    await write('value');
    await table.hold();
    const reads = readAll('cold');
    await table.isHeld();
    // Longer than a lease, which its holder renews.
    await delay(LEASE_MS + 300);
    await table.isHeld();
    await table.letGo();

    for (const answer of await reads) t.same(answer.values, ['value']);
    t.equal(await table.loads(), 1);
    await isStored(seed, key('cold'));
  });

  await t.test('500 cold reads on 3 processes without a Redis load once a process', async (t) => {
    await table.hold();
    const reads = readAll('cold', false);
    await table.isHeld();
    await table.letGo();

    for (const answer of await reads) t.same(answer.values, ['value']);
    t.ok((await table.loads()) <= 3);
  });

  await t.test('what turned stale is served by all and loaded by one', async (t) => {
    await storeOld(seed, 70_000, key('stale'));
    await table.hold();

    for (const answer of await readAll('stale')) {
      t.same(answer.values, ['old']);
      t.ok(answer.ageSeconds >= 70 && answer.ageSeconds < 80, `Age: ${answer.ageSeconds}`);
    }
    await table.isHeld();
    await distrust();
    for (const answer of await readAll('stale')) t.same(answer.values, ['old'], 'nobody waits for the load');
    await table.letGo();
    await until(
      'it is stored',
      async () => (await seed.client.get(redisKey(key('stale'))))?.endsWith('"value"') ?? false,
    );
    await distrust();
    for (const answer of await readAll('stale')) t.same(answer.values, ['value']);
    t.equal(await table.loads(), 1);
  });

  await t.test(
    'a process that stands still while it loads delays nobody for longer than a lease',
    async (t) => {
      await write('old');
      await table.hold();
      const early = a.read(key('stopped'));
      await table.isHeld();
      a.signal('SIGSTOP');

      await write('new');
      const [first, second] = await Promise.all([
        timed(b.read(key('stopped'))),
        timed(c.read(key('stopped'))),
      ]);
      t.same([first.value.values, second.value.values], [['new'], ['new']]);
      const slowestMs = Math.max(first.tookMs, second.tookMs);
      t.ok(slowestMs > LEASE_MS / 4 && slowestMs < WAIT_MS, `${slowestMs.toFixed(0)} ms`);
      t.equal(await table.loads(), 2, 'and one of the others loaded');

      await write('newer');
      await b.invalidate(key('stopped'));
      t.same((await b.read(key('stopped'))).values, ['newer']);
      a.signal('SIGCONT');
      await table.letGo();
      t.same((await early).values, ['old'], 'what it was asked for before');
      t.match(await seed.client.get(redisKey(key('stopped'))), /"newer"$/, 'its old value is not stored');
      await until('it follows', async () => (await a.read(key('stopped'))).values[0] === 'newer', 1000);
    },
  );

  await t.test('a process that is killed while it loads delays nobody for longer than a lease', async (t) => {
    await write('value');
    await table.hold();
    void a.read(key('killed'));
    await table.isHeld();
    a.signal('SIGKILL');

    const [first, second] = await Promise.all([timed(b.read(key('killed'))), timed(c.read(key('killed')))]);
    t.same([first.value.values, second.value.values], [['value'], ['value']]);
    const slowestMs = Math.max(first.tookMs, second.tookMs);
    t.ok(slowestMs > LEASE_MS / 4 && slowestMs < WAIT_MS, `${slowestMs.toFixed(0)} ms`);
    t.equal(await table.loads(), 2);
    t.equal(await seed.cache.get(key('killed'), neverLoad), 'value', 'which is stored');
    await table.letGo();
  });

  await t.test('with Redis gone each process loads once', async (t) => {
    await server.stop();
    await table.hold();
    const reads = Promise.all([b, c].map((worker) => worker.read(key('alone'), { times: 250 })));
    await table.isHeld();
    await table.letGo();

    for (const answer of await reads) t.same(answer.values, ['value']);
    t.ok((await table.loads()) <= 2);
  });
});
