// Goes with the example: src/features/orders
import { Redis } from 'ioredis';
import { Client } from 'pg';
import t from 'tap';
import { newOrder, startTestApp } from '../support/app.ts';
import { createGate } from '../support/gate.ts';
import { startPostgres } from '../support/postgres.ts';
import { startRedis } from '../support/redis.ts';
import { startService, type ServiceProcess } from '../support/service.ts';
import { until } from '../support/until.ts';

// The cache over HTTP: several services on one Redis and one Postgres. The tests run in order and share them.

/** How long a process may believe what it keeps, and time for a request. */
const TRUST_MS = 1500;
const LEASE_MS = 2000;
const WAIT_MS = 5000;
/** A service whose own clock is an hour ahead. */
const AHEAD = 'data:text/javascript,const{now}=Date;Date.now=()=>now()+36e5';

t.test('several services', async (t) => {
  const [postgres, redis] = await Promise.all([startPostgres(t), startRedis(t)]);
  if (!redis) return;
  const admin = new Client({ connectionString: postgres.url });
  admin.on('error', () => undefined);
  await admin.connect();
  t.teardown(() => admin.end().catch(() => undefined));
  const store = new Redis(redis.url);
  t.teardown(() => store.disconnect());

  // Every row that is read passes the gate.
  const { hold, isHeld, letGo, loads } = await createGate(admin);
  await admin.query(`
    alter table orders rename to orders_kept;
    create view orders as select * from orders_kept where pass_gate()`);

  // A busy machine is no outage.
  const env = { DATABASE_URL: postgres.url, REDIS_URL: redis.url, REDIS_COMMAND_TIMEOUT_MS: '2000' };
  const impatience = {
    REDIS_COMMAND_TIMEOUT_MS: '200',
    POOL_WAIT_TIMEOUT_MS: '300',
    QUERY_TIMEOUT_SECONDS: '0.5',
  };
  const seed = await startTestApp(t, env);
  const [{ token }, { token: foreign }] = await Promise.all([
    seed.issueKey(),
    seed.issueKey({ tenant: 'other' }),
  ]);
  const services = await Promise.all([
    startService(t, env),
    startService(t, env),
    startService(t, env, ['--import', AHEAD]),
    startService(t, { ...env, ...impatience }),
  ]);
  const [a, b, c, impatient] = services;
  const fleet = [a, b, c];

  async function ask(
    service: ServiceProcess,
    method: string,
    path: string,
    init: { headers?: Record<string, string>; body?: string } = {},
  ) {
    const startedAtMs = performance.now();
    const response = await fetch(service.url + path, {
      method,
      ...init,
      headers: {
        authorization: `Bearer ${token}`,
        ...(init.body ? { 'content-type': 'application/json' } : {}),
        ...init.headers,
      },
    });
    const text = await response.text();
    return {
      status: response.status,
      headers: response.headers,
      text,
      json: text === '' ? undefined : JSON.parse(text),
      age: Number(response.headers.get('age')),
      tookMs: performance.now() - startedAtMs,
    };
  }
  const read = (service: ServiceProcess, path: string) => ask(service, 'GET', path);
  const move = (service: ServiceProcess, path: string, version: number, status: string) =>
    ask(service, 'PATCH', path, {
      headers: { 'if-match': `"${version}"` },
      body: JSON.stringify({ status }),
    });
  /** An order of 2020, the only one that the summary counts, and its URL. */
  async function create(): Promise<string> {
    await admin.query('delete from orders_kept');
    const { json } = await ask(b, 'POST', '/v1/orders', { body: JSON.stringify(newOrder()) });
    await admin.query(`update orders_kept set created_at = '2020-02-03'`);
    await seed.services.cache.invalidate({ tenant: 'acme', name: 'order-summaries', id: '' });
    return `/v1/orders/${json.id}`;
  }
  /** The summary of a range that nobody has asked for yet. */
  const newSummary = () => `/v1/orders/summary?from=2020-01-01&to=2020-12-${(day += 1)}`;
  let day = 9;
  const keyOf = async (path: string) => {
    const stored = await store.keys(`*${path.split('/').at(-1)}*]}:*`);
    const keys = stored.filter((key) => !key.includes(':lease'));
    t.equal(keys.length, 1, 'it is stored in Redis');
    return keys[0] ?? '';
  };
  /** Makes what Redis holds look as if it had been loaded so long ago, and no process keep anything younger. */
  async function age(path: string, ms: number): Promise<void> {
    const key = await keyOf(path);
    const lifeMs = Number((await store.get(key))?.split(' ')[2]);
    await store.pexpire(key, lifeMs - ms);
  }
  const inFlight = async () => {
    const texts = await Promise.all(
      fleet.map(async ({ metricsUrl }) => (await fetch(`${metricsUrl}/metrics`)).text()),
    );
    return texts.reduce((sum, text) => sum + Number(/^api_requests_in_flight (\d+)$/m.exec(text)?.[1]), 0);
  };

  // So that every service knows the key, and hears Redis.
  for (const service of services) {
    await until('it knows the key', async () => (await read(service, '/v1/orders')).status === 200);
    await until('Redis is there', async () => (await read(service, '/health')).json.redis === 'connected');
  }

  for (const route of ['GET /v1/orders/:id', 'GET /v1/orders/summary']) {
    await t.test(`500 cold reads of one thing on 3 processes load it once: ${route}`, async (t) => {
      const order = await create();
      const path = route.endsWith('summary') ? newSummary() : order;
      await hold();
      const reads = Array.from({ length: 500 }, (_, index) => read(fleet[index % 3] ?? a, path));
      await isHeld();
      // All of them, or as many as a busy machine lets in.
      const crowded = until('all are waiting', async () => (await inFlight()) === 500, LEASE_MS);
      await crowded.catch(() => undefined);
      t.comment(`${await inFlight()} in flight`);
      await letGo();

      const answers = await Promise.all(reads);
      t.same(new Set(answers.map(({ status }) => status)), new Set([200]));
      t.equal(new Set(answers.map(({ text }) => text)).size, 1, 'one answer');
      t.equal(await loads(), 1);
    });
  }

  for (const write of ['update', 'delete']) {
    await t.test(`a load that a ${write} overtakes leaves no old order, no old summary`, async (t) => {
      for (const held of ['order', 'summary']) {
        const order = await create();
        const summary = newSummary();
        const path = held === 'order' ? order : summary;
        const statusOf = async (service: ServiceProcess) => {
          const [one, all] = [await read(service, order), await read(service, summary)];
          return [one.json.status, all.json.rows.map((row: { status: string }) => row.status).join()];
        };
        const after = write === 'update' ? ['paid', 'paid'] : [404, ''];
        await hold();
        const early = read(a, path);
        await isHeld();
        await read(a, path === order ? summary : order);

        const known = { headers: { 'if-match': '"1"' } };
        const { status } =
          write === 'update' ? await move(b, order, 1, 'paid') : await ask(b, 'DELETE', order, known);
        t.equal(status, write === 'update' ? 200 : 204);
        t.same(await statusOf(b), after, 'who writes reads it');
        await letGo();
        t.match((await early).text, /"pending"/, 'who came before gets what there was');
        for (const service of fleet) {
          const follows = async () => (await statusOf(service)).join() === after.join();
          await until(`${held}: it follows`, follows, TRUST_MS);
        }
      }
    });
  }

  await t.test('a rollback that overtakes a load keeps what there is', async (t) => {
    const path = await create();
    await hold();
    const early = read(a, path);
    await isHeld();
    t.equal((await move(b, path, 1, 'delivered')).status, 409);
    await letGo();
    t.equal((await early).json.status, 'pending');
    const before = await loads();
    for (const service of fleet) t.equal((await read(service, path)).json.status, 'pending');
    t.equal(await loads(), before + 1, 'nothing was loaded but by this line');
  });

  await t.test('what may have been changed is not kept when the answer to the commit got lost', async (t) => {
    const path = await create();
    await read(a, path);
    const key = await keyOf(path);
    await admin.query(`
      create function die() returns trigger language plpgsql as $$
      begin
        perform pg_terminate_backend(pg_backend_pid());
        return null;
      end $$;
      create constraint trigger die after update on orders_kept
        deferrable initially deferred for each row execute function die()`);
    t.equal((await move(b, path, 1, 'paid')).status, 504);
    await admin.query('drop trigger die on orders_kept');
    t.equal(await store.exists(key), 0);
  });

  await t.test('Age is right on every process, whatever its clock, and caches must ask', async (t) => {
    const path = await create();
    t.equal((await read(b, path)).age, 0);
    await age(path, 50_000);
    for (const service of [a, c]) {
      const { headers, age: seconds, json } = await read(service, path);
      t.match(headers.get('age'), /^\d+$/);
      t.ok(seconds >= 50 && seconds < 60, `${seconds} s`);
      t.equal(headers.get('cache-control'), 'private, no-cache');
      t.equal(headers.get('etag'), `"${json.version}"`);
      t.equal(headers.get('content-type'), 'application/json; charset=utf-8');
    }
    const summary = newSummary();
    t.equal((await read(a, summary)).headers.get('cache-control'), 'no-store');
    const others = { headers: { authorization: `Bearer ${foreign}`, 'if-none-match': '"1"' } };
    t.equal((await ask(a, 'GET', path, others)).status, 404, 'to another tenant it is never unchanged');
    t.same((await ask(a, 'GET', summary, others)).json.rows, []);
  });

  await t.test('a damaged entry is a miss', async (t) => {
    const path = await create();
    const { text } = await read(b, path);
    const key = await keyOf(path);
    const entry = (await store.get(key)) ?? '';
    await store.set(key, entry.replace('pending', 'paid...'), 'KEEPTTL');
    t.equal((await read(a, path)).text, text);
    await until('it was replaced', async () => (await store.get(key))?.includes('"pending"') ?? false);
    t.equal((await read(c, path)).text, text);
  });

  await t.test('a service that is killed while it loads delays nobody for longer than a lease', async (t) => {
    const path = await create();
    await hold();
    const early = read(a, path).catch(() => 'cut off');
    await isHeld();
    a.child.kill('SIGKILL');
    t.equal(await early, 'cut off');

    const answers = await Promise.all([b, c, b, c].map((service) => read(service, path)));
    t.same(
      answers.map(({ status }) => status),
      [200, 200, 200, 200],
    );
    const slowestMs = Math.max(...answers.map(({ tookMs }) => tookMs));
    t.ok(slowestMs > LEASE_MS / 4 && slowestMs < WAIT_MS, `${slowestMs.toFixed(0)} ms`);
    t.equal(await loads(), 2, 'and the two that are left load once');
    await letGo();
  });

  await t.test('old values are served on database errors, up to a cap', async (t) => {
    const path = await create();
    const other = (await ask(b, 'POST', '/v1/orders', { body: JSON.stringify(newOrder()) })).json.id;
    await read(b, path);
    await age(path, 200_000);
    await hold();
    t.equal((await read(impatient, `/v1/orders/${other}`)).status, 504, 'a statement timeout');
    await hold();
    const first = await read(impatient, path);
    t.equal(first.status, 200, 'with an old value');
    t.ok(first.age >= 200 && first.tookMs > 400, `Age ${first.age} after ${first.tookMs.toFixed(0)} ms`);
    await letGo();

    await postgres.stop();
    for (const service of [c, impatient]) {
      const { status, age: seconds } = await read(service, path);
      t.equal(status, 200, 'no Postgres');
      t.ok(seconds >= 200, `Age ${seconds}`);
    }
    const unknown = await read(c, `/v1/orders/${other}`);
    t.equal(unknown.status, 503);
    t.match(unknown.headers.get('retry-after'), /^\d+$/);

    const lifeMs = Number((await store.get(await keyOf(path)))?.split(' ')[2]);
    await age(path, lifeMs - 1000);
    await until('no process serves it longer', async () => (await read(b, path)).status === 503);
    t.match((await read(b, path)).headers.get('retry-after'), /^\d+$/);

    await postgres.start();
    await until('it is healed', async () => {
      const { status, age: seconds } = await read(b, path);
      return status === 200 && seconds < 100;
    });
  });
});
