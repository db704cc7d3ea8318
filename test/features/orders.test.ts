import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import type { Client } from 'pg';
import t, { type Test } from 'tap';
import { createToken } from '../../src/auth/token.ts';
import { newOrder, startTestApp, type TestApp } from '../support/app.ts';
import { createDatabase, withClient } from '../support/postgres.ts';
import { redisUrl } from '../support/redis.ts';
import { startService } from '../support/service.ts';
import { startTcpProxy } from '../support/tcp-proxy.ts';
import { until } from '../support/until.ts';

const QUERIES = 'db_query_latency_seconds_count{target="primary"}';
const STATUSES = ['pending', 'paid', 'shipped', 'delivered', 'cancelled'];
const NO_ORDER = '/v1/orders/0199d4f0-0000-7000-8000-000000000000';

t.test('an order is created, read, moved on and deleted', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token } = await issueKey({ scopes: ['orders:read', 'orders:write'] });
  const body = newOrder({
    items: [
      { sku: 'BOOK-1', quantity: 2, unitPriceMinor: 1250 },
      { sku: 'PEN.2_b', quantity: 3, unitPriceMinor: 0 },
    ],
  });

  const created = await request('POST', '/v1/orders', { token, body });
  t.equal(created.status, 201);
  const order = created.json;
  t.match(order, { ...body, status: 'pending', totalMinor: 2500, version: 1 });
  t.match(order.id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-/, 'a UUIDv7');
  t.equal(new Date(order.createdAt).toISOString(), order.createdAt, 'in UTC, to the millisecond');
  t.ok(Math.abs(Date.parse(order.createdAt) - Date.now()) < 60_000);
  const url = `/v1/orders/${order.id}`;
  t.match(created.headers, { location: url, etag: '"1"' });
  t.equal(created.headers['idempotency-replayed'], undefined);

  const read = await request('GET', url, { token });
  t.same(read.json, order);
  t.match(read.headers, { etag: '"1"', age: '0', 'cache-control': 'private, no-cache' });

  const paid = await patch(request, token, url, '"1"', 'paid');
  t.equal(paid.status, 200);
  t.equal(paid.headers.etag, '"2"');
  t.match(paid.json, { ...order, status: 'paid', version: 2, updatedAt: /Z$/ });
  t.ok(paid.json.updatedAt > order.updatedAt);
  t.same((await request('GET', url, { token })).json, paid.json);

  const removed = await request('DELETE', url, { token, headers: { 'if-match': '"2"' } });
  t.equal(removed.status, 204);
  t.equal(removed.text, '');
  t.equal((await request('GET', url, { token })).status, 404);
  t.equal((await request('DELETE', url, { token, headers: { 'if-match': '"2"' } })).status, 404);
  t.equal((await patch(request, token, url, '"2"', 'shipped')).status, 404);
});

t.test('an order that cannot be is refused, to the last bound', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token } = await issueKey();
  const create = (changes: Record<string, unknown>) =>
    request('POST', '/v1/orders', { token, body: newOrder(changes) });
  const item = { sku: 'A', quantity: 1, unitPriceMinor: 1 };
  const items = (changes: Record<string, unknown>) => ({ items: [{ ...item, ...changes }] });
  const largest = { sku: 'A', quantity: 10_000, unitPriceMinor: 100_000_000 };

  for (const changes of [
    { reference: '' },
    { reference: 'x'.repeat(65) },
    { reference: 'with blank' },
    { reference: 'nul\u0000' },
    { currency: 'eur' },
    { currency: 'EURO' },
    { items: [] },
    { items: Array.from({ length: 101 }, () => item) },
    { items: [largest, item] },
    items({ sku: '' }),
    items({ sku: 'x'.repeat(65) }),
    items({ sku: '../etc' }),
    items({ quantity: 0 }),
    items({ quantity: 10_001 }),
    items({ quantity: 1.5 }),
    items({ quantity: '1' }),
    items({ unitPriceMinor: -1 }),
    items({ unitPriceMinor: 100_000_001 }),
    items({ discount: 1 }),
    { status: 'paid' },
    { id: '0199d4f0-0000-7000-8000-000000000000' },
    { tenant: 'globex' },
    { totalMinor: 1 },
  ]) {
    const { status, json } = await create(changes);
    t.equal(status, 400, JSON.stringify(changes).slice(0, 80));
    t.match(json, { code: 'validation_failed', errors: [{ in: 'body' }] });
  }

  for (const changes of [
    { reference: 'x'.repeat(64) },
    { reference: '!~' },
    { items: Array.from({ length: 100 }, () => item) },
    { items: [largest] },
    items({ unitPriceMinor: 0 }),
  ]) {
    t.equal((await create(changes)).status, 201, JSON.stringify(changes).slice(0, 80));
  }
  t.equal((await create({ items: [largest] })).json.totalMinor, 1e12);
});

t.test('a reference is unique within its tenant', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token } = await issueKey();
  const { token: other } = await issueKey({ tenant: 'globex' });
  const body = newOrder();

  const answers = await Promise.all(
    Array.from({ length: 5 }, () => request('POST', '/v1/orders', { token, body })),
  );

  t.same(answers.map(({ status }) => status).toSorted(), [201, 409, 409, 409, 409]);
  const refused = answers.find(({ status }) => status === 409);
  t.match(refused?.json, { code: 'conflict', detail: 'An order with this reference exists' });
  t.equal((await request('POST', '/v1/orders', { token: other, body })).status, 201);
  t.equal((await request('GET', '/v1/orders', { token })).json.data.length, 1);
});

t.test('a read again costs no query, tells its age, and 304 when it is known', async (t) => {
  const redis = await redisUrl(t);
  const { request, issueKey, metric } = await startTestApp(t, redis ? { REDIS_URL: redis } : {});
  const { token } = await issueKey();
  const { json: order } = await request('POST', '/v1/orders', { token, body: newOrder() });
  const url = `/v1/orders/${order.id}`;
  const read = (ifNoneMatch?: string) =>
    request('GET', url, { token, ...(ifNoneMatch && { headers: { 'if-none-match': ifNoneMatch } }) });
  const startedAt = Date.now();
  await read();
  const queries = await metric(QUERIES);

  for (let i = 0; i < 20; i++) t.same((await read()).json, order);
  for (const known of ['"1"', 'W/"1"', '"7", "1"', '"7",W/"1" , "8"', '*']) {
    const { status, text, headers } = await read(known);
    t.equal(status, 304, known);
    t.equal(text, '');
    t.match(headers, { etag: '"1"', 'cache-control': 'private, no-cache' });
  }
  for (const unknown of ['"2"', 'W/"2"', '1', '"1', 'x']) {
    t.equal((await read(unknown)).status, 200, unknown);
  }

  t.equal(await metric(QUERIES), queries);
  if (!redis) return;
  let age = 0;
  await until('a second has passed', async () => (age = Number((await read()).headers.age)) > 0);
  const passedMs = Date.now() - startedAt;
  t.ok(age * 1000 < passedMs + 100, `after ${passedMs} ms the age is ${age} s`);
});

t.test('what is not there is remembered as well, until it is', async (t) => {
  const { request, issueKey, metric } = await startTestApp(t);
  const { token } = await issueKey();
  const { json: order } = await request('POST', '/v1/orders', { token, body: newOrder() });
  const url = `/v1/orders/${order.id}`;
  await request('GET', url, { token });

  t.equal((await request('GET', NO_ORDER, { token })).status, 404);
  const queries = await metric(QUERIES);
  t.equal((await request('GET', NO_ORDER, { token })).status, 404);
  t.equal(await metric(QUERIES), queries);
  t.equal(await metric('cache_requests_total{result="negative"}'), 1);

  await request('DELETE', url, { token, headers: { 'if-match': '"1"' } });
  t.equal((await request('GET', url, { token })).status, 404, 'deleted is deleted at once');
  t.equal((await request('GET', '/v1/orders/not-a-uuid', { token })).status, 400);
});

t.test('who writes reads his write, and other processes follow at once', async (t) => {
  const REDIS_URL = await redisUrl(t);
  if (!REDIS_URL) return;
  const DATABASE_URL = await createDatabase(t);
  const first = await startTestApp(t, { DATABASE_URL, REDIS_URL });
  const second = await startTestApp(t, { DATABASE_URL, REDIS_URL });
  for (const { metric } of [first, second]) {
    await until('Redis is ready', async () => (await metric('redis_up{role="cache"}')) === 1);
  }
  const { token } = await first.issueKey();
  const versionAt = async ({ request }: TestApp, url: string) =>
    (await request('GET', url, { token })).json.version;

  for (let i = 0; i < 10; i++) {
    const { json } = await first.request('POST', '/v1/orders', { token, body: newOrder() });
    const url = `/v1/orders/${json.id}`;
    for (const [version, status] of [
      [1, 'paid'],
      [2, 'shipped'],
      [3, 'delivered'],
    ] as const) {
      t.equal(await versionAt(second, url), version);
      t.equal(await versionAt(first, url), version);
      const [writer, other] = version % 2 ? [first, second] : [second, first];
      await patch(writer.request, token, url, `"${version}"`, status);
      t.equal(await versionAt(writer, url), version + 1, 'the writer');
      const startedAt = performance.now();
      await until('the other has it', async () => (await versionAt(other, url)) === version + 1);
      const tookMs = performance.now() - startedAt;
      if (tookMs > 500) t.fail(`the other process followed after ${tookMs} ms`);
    }
    await second.request('DELETE', url, { token, headers: { 'if-match': '"4"' } });
    t.equal((await second.request('GET', url, { token })).status, 404);
    await until('it is gone', async () => (await first.request('GET', url, { token })).status === 404);
  }
});

t.test('an id in upper case is the same id: one entry, one invalidation', async (t) => {
  const redis = await redisUrl(t);
  const { request, issueKey, metric } = await startTestApp(t, redis ? { REDIS_URL: redis } : {});
  const { token } = await issueKey();
  const { json: order } = await request('POST', '/v1/orders', { token, body: newOrder() });
  const lower = `/v1/orders/${order.id}`;
  const upper = `/v1/orders/${order.id.toUpperCase()}`;
  t.not(upper, lower);
  const spellings = [lower, upper, lower.replaceAll('-', '%2D'), upper.replaceAll('-', '%2d')];
  t.same((await request('GET', upper, { token })).json, order);
  const queries = await metric(QUERIES);
  for (const url of spellings) t.same((await request('GET', url, { token })).json, order, url);
  t.equal(await metric(QUERIES), queries, 'all of them are answered by what the first one loaded');

  t.equal((await patch(request, token, upper, '"1"', 'paid')).status, 200);
  for (const url of spellings) t.equal((await request('GET', url, { token })).json.status, 'paid', url);
  t.equal((await request('DELETE', lower, { token, headers: { 'if-match': '"2"' } })).status, 204);
  for (const url of spellings) t.equal((await request('GET', url, { token })).status, 404, url);
});

t.test('pages show each order once while others are made', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token } = await issueKey();
  const { token: stranger } = await issueKey({ tenant: 'globex' });
  const create = async (key = token) =>
    (await request('POST', '/v1/orders', { token: key, body: newOrder() })).json.id;
  const made: string[] = [];
  for (let i = 0; i < 23; i++) made.push(await create());
  await create(stranger);

  const seen: string[] = [];
  const sizes: number[] = [];
  for (let next = ''; next !== null;) {
    const { json } = await request('GET', `/v1/orders?limit=5${next && `&cursor=${next}`}`, { token });
    seen.push(...json.data.map(({ id }: { id: string }) => id));
    sizes.push(json.data.length);
    next = json.next;
    await create();
    await create(stranger);
  }

  t.same(seen, made.toReversed(), 'newest first, as they were at the first page');
  t.same(sizes, [5, 5, 5, 5, 3]);
  const { next } = (await request('GET', '/v1/orders?limit=1', { token })).json;
  const foreign = (await request('GET', '/v1/api-keys?limit=1', { token })).json.next;
  for (const query of [
    'limit=0',
    'limit=101',
    'limit=-1',
    'limit=1e1',
    'limit=',
    'limit=1&limit=2',
    'status=lost',
    'createdFrom=yesterday',
    'createdFrom=2026-01-01',
    'createdFrom=0000-01-01T00:00:00Z',
    'createdBefore=2026-02-30T00:00:00Z',
    'sort=total',
    'cursor=',
    'cursor=x',
  ]) {
    t.equal((await request('GET', `/v1/orders?${query}`, { token })).status, 400, query);
  }
  for (const cursor of [foreign, `${next.slice(0, -1)}${next.endsWith('A') ? 'B' : 'A'}`]) {
    t.equal((await request('GET', `/v1/orders?cursor=${cursor}`, { token })).status, 404, cursor);
  }
  t.equal((await request('GET', `/v1/orders?limit=100`, { token })).json.data.length, 28);
  t.equal((await request('GET', `/v1/orders`, { token })).json.data.length, 20);
});

t.test('filters hold alone and in every combination', async (t) => {
  const url = await createDatabase(t);
  const { request, issueKey } = await startTestApp(t, { DATABASE_URL: url });
  const { token } = await issueKey();
  const orders: { id: string; status: string; createdAt: string }[] = [];
  for (let i = 0; i < 15; i++) {
    const { json } = await request('POST', '/v1/orders', { token, body: newOrder() });
    const day = String((i % 5) + 1).padStart(2, '0');
    orders.unshift({ id: json.id, status: STATUSES[i % 3] ?? '', createdAt: `2026-03-${day}T00:00:00.000Z` });
  }
  await withClient(url, async (client) => {
    for (const { id, status, createdAt } of orders) {
      await client.query('update orders set status = $2, created_at = $3 where id = $1', [
        id,
        status,
        createdAt,
      ]);
    }
  });

  for (const status of [undefined, 'pending', 'paid', 'delivered']) {
    for (const createdFrom of [undefined, '2026-03-02T00:00:00Z', '2026-03-01T23:59:59.999Z']) {
      for (const createdBefore of [undefined, '2026-03-04T00:00:00Z', '2026-03-04T00:00:00.001Z']) {
        const filters = Object.entries({ status, createdFrom, createdBefore }).filter(([, value]) => value);
        const query = new URLSearchParams(filters as [string, string][]);
        const wanted = orders
          .filter((order) => !status || order.status === status)
          .filter((order) => !createdFrom || Date.parse(order.createdAt) >= Date.parse(createdFrom))
          .filter((order) => !createdBefore || Date.parse(order.createdAt) < Date.parse(createdBefore))
          .map(({ id }) => id);
        const found: string[] = [];
        for (let next: string | null = ''; next !== null;) {
          const path = `/v1/orders?limit=4&${String(query)}${next && `&cursor=${next}`}`;
          const { json }: { json: { data: { id: string }[]; next: string | null } } = await request(
            'GET',
            path,
            { token },
          );
          found.push(...json.data.map(({ id }) => id));
          next = json.next;
        }
        t.same(found, wanted, String(query));
      }
    }
  }
});

t.test('an order moves on only as orders do', async (t) => {
  const url = await createDatabase(t);
  const { request, issueKey } = await startTestApp(t, { DATABASE_URL: url });
  const { token } = await issueKey();
  const legal = ['pending paid', 'pending cancelled', 'paid shipped', 'paid cancelled', 'shipped delivered'];

  for (const from of STATUSES) {
    for (const to of STATUSES) {
      const { json } = await request('POST', '/v1/orders', { token, body: newOrder() });
      await withClient(url, (client) =>
        client.query('update orders set status = $2 where id = $1', [json.id, from]),
      );
      const answer = await patch(request, token, `/v1/orders/${json.id}`, '"1"', to);
      const after = (await request('GET', `/v1/orders/${json.id}`, { token })).json;
      if (legal.includes(`${from} ${to}`)) {
        t.equal(answer.status, 200, `${from} → ${to}`);
        t.match(after, { status: to, version: 2 });
      } else {
        t.match(answer.json, { status: 409, code: 'illegal_transition' }, `${from} → ${to}`);
        t.match(after, { status: from, version: 1 });
      }
    }
  }
  const { json } = await request('POST', '/v1/orders', { token, body: newOrder() });
  t.match((await patch(request, token, `/v1/orders/${json.id}`, '"1"', 'lost')).json, {
    code: 'validation_failed',
  });
});

t.test('nobody overwrites what he has not seen', async (t) => {
  const database = await createDatabase(t);
  const { request, issueKey } = await startTestApp(t, { DATABASE_URL: database });
  const { token } = await issueKey();
  const create = async () =>
    `/v1/orders/${(await request('POST', '/v1/orders', { token, body: newOrder() })).json.id}`;
  const remove = (url: string, ifMatch?: string) =>
    request('DELETE', url, { token, ...(ifMatch && { headers: { 'if-match': ifMatch } }) });

  const url = await create();
  t.match((await patch(request, token, url, undefined, 'paid')).json, {
    status: 428,
    code: 'precondition_required',
  });
  t.match((await remove(url)).json, { status: 428, code: 'precondition_required' });
  for (const ifMatch of [
    '"0"',
    '"2"',
    'W/"1"',
    '1',
    '"2", W/"1"',
    '"1" "2"',
    '"01"x',
    '"99999999999999999999"',
  ]) {
    t.match(
      (await patch(request, token, url, ifMatch, 'paid')).json,
      { status: 412, code: 'precondition_failed' },
      ifMatch,
    );
    t.match((await remove(url, ifMatch)).json, { status: 412, code: 'precondition_failed' }, ifMatch);
  }
  t.equal((await patch(request, token, NO_ORDER, '"1"', 'paid')).status, 404);
  t.equal((await patch(request, token, NO_ORDER, '*', 'paid')).status, 404);
  const other = await create();
  t.equal((await patch(request, token, other, '"7", "1"', 'paid')).status, 200, 'one of a list is enough');
  t.equal((await remove(other, '*')).status, 204, 'a * matches what exists');
  for (const ifNoneMatch of ['"1"', 'W/"1"', '"7" ,W/"1"', '*', '"a,b", "1"']) {
    const headers = { 'if-none-match': ifNoneMatch };
    t.equal((await request('GET', url, { token, headers })).status, 304, ifNoneMatch);
  }
  for (const ifNoneMatch of ['"2"', '1', '"7", W/"2"', '"\\"1"']) {
    const headers = { 'if-none-match': ifNoneMatch };
    t.equal((await request('GET', url, { token, headers })).status, 200, ifNoneMatch);
  }
  t.match((await request('GET', url, { token })).json, { status: 'pending', version: 1 });

  for (let i = 0; i < 15; i++) {
    const contested = await create();
    const answers = await Promise.all([
      patch(request, token, contested, '"1"', 'paid'),
      patch(request, token, contested, '"1"', 'cancelled'),
      patch(request, token, contested, '"1"', 'paid'),
    ]);
    t.same(answers.map(({ status }) => status).toSorted(), [200, 412, 412]);
    const winner = answers.find(({ status }) => status === 200);
    t.same((await request('GET', contested, { token })).json, winner?.json);
  }

  for (const late of ['PATCH', 'DELETE']) {
    const contested = await create();
    await withClient(database, async (client) => {
      await client.query('begin');
      await client.query('select from orders where id = $1 for update', [contested.split('/').at(-1)]);
      const first = patch(request, token, contested, '"1"', 'paid');
      await untilBlocked(database, 1);
      // It has seen version 1 by now, which will be gone when its turn comes.
      const second =
        late === 'PATCH' ? patch(request, token, contested, '"1"', 'cancelled') : remove(contested, '"1"');
      await untilBlocked(database, 2);
      await client.query('rollback');
      t.equal((await first).status, 200);
      t.equal((await second).status, 412, late);
    });
    t.match((await request('GET', contested, { token })).json, { status: 'paid', version: 2 });
  }
});

t.test('the summary counts by days of UTC, whatever the time zone of Postgres', async (t) => {
  const url = await createDatabase(t);
  await withClient(url, async (client) => {
    await client.query(
      `alter database ${new URL(url).pathname.slice(1)} set timezone to 'Pacific/Kiritimati'`,
    );
  });
  const { request, issueKey, metric } = await startTestApp(t, { DATABASE_URL: url });
  const { token } = await issueKey();
  const { token: stranger } = await issueKey({ tenant: 'globex' });
  await withClient(url, async (client) => {
    const insert = (tenant: string, at: string, status: string, currency: string, total: string) =>
      client.query(
        `insert into orders (id, tenant, reference, status, currency, total_minor, items, created_at)
         values (gen_random_uuid(), $1, gen_random_uuid()::text, $2, $3, $4, '[1]', $5)`,
        [tenant, status, currency, total, at],
      );
    await insert('acme', '2026-02-28T23:59:59.999999Z', 'paid', 'EUR', '1');
    await insert('acme', '2026-03-01T00:00:00Z', 'paid', 'EUR', '2');
    await insert('acme', '2026-03-01T23:59:59.999999Z', 'paid', 'EUR', '3');
    await insert('acme', '2026-03-01T12:00:00Z', 'paid', 'USD', '4');
    await insert('acme', '2026-03-01T12:00:00Z', 'pending', 'EUR', '5');
    await insert('acme', '2026-03-02T00:00:00Z', 'paid', 'EUR', '6');
    await insert('acme', '2026-03-02T23:59:59.999999Z', 'paid', 'EUR', '7');
    await insert('acme', '2026-03-03T00:00:00Z', 'paid', 'EUR', '8');
    await insert('globex', '2026-03-01T12:00:00Z', 'paid', 'EUR', '100');
    await client.query(
      `insert into orders (id, tenant, reference, status, currency, total_minor, items, created_at)
       select gen_random_uuid(), 'acme', 'huge' || n, 'paid', 'JPY', 1000000000000 - (n = 1)::int, '[1]', '2026-05-01'
       from generate_series(1, 9100) n`,
    );
  });
  const ask = (from: string, to: string, key = token) =>
    request('GET', `/v1/orders/summary?from=${from}&to=${to}`, { token: key });

  const answer = await ask('2026-03-01', '2026-03-02');
  const row = (day: string, status: string, currency: string, orders: number, totalMinor: string) => ({
    day,
    status,
    currency,
    orders,
    totalMinor,
  });
  t.same(answer.json, {
    from: '2026-03-01',
    to: '2026-03-02',
    rows: [
      row('2026-03-01', 'paid', 'EUR', 2, '5'),
      row('2026-03-01', 'paid', 'USD', 1, '4'),
      row('2026-03-01', 'pending', 'EUR', 1, '5'),
      row('2026-03-02', 'paid', 'EUR', 2, '13'),
    ],
  });
  t.equal(answer.headers.age, '0');
  const queries = await metric(QUERIES);
  t.same((await ask('2026-03-01', '2026-03-02')).json, answer.json);
  t.equal(await metric(QUERIES), queries, 'the second time from the cache');
  t.same((await ask('2026-03-01', '2026-03-02', stranger)).json.rows, [
    row('2026-03-01', 'paid', 'EUR', 1, '100'),
  ]);
  t.same(
    (await ask('2026-04-30', '2026-05-01')).json.rows,
    [row('2026-04-30', 'paid', 'JPY', 9100, '9099999999999999')],
    'beyond what a JSON number holds',
  );

  t.same((await ask('2027-01-01', '2027-01-01')).json.rows, []);
  t.equal((await ask('2026-01-01', '2027-01-01')).status, 200, '366 days');
  for (const [from, to] of [
    ['2026-01-01', '2027-01-02'],
    ['2026-01-02', '2026-01-01'],
    ['2026-02-30', '2026-03-01'],
    ['2026-01-01T00:00:00Z', '2026-01-02'],
    ['', '2026-01-02'],
    ['0000-01-01', '0000-01-02'],
  ] as const) {
    t.equal((await ask(from, to)).status, 400, `${from} to ${to}`);
  }
  t.equal((await request('GET', '/v1/orders/summary', { token })).status, 400);
});

t.test('too many rows are refused, and a statement that takes too long is ended', async (t) => {
  const url = await createDatabase(t);
  const { request, issueKey } = await startTestApp(t, {
    DATABASE_URL: url,
    QUERY_MAX_ROWS: '2',
    QUERY_TIMEOUT_SECONDS: '0.3',
    POOL_WAIT_TIMEOUT_MS: '200',
  });
  const { token } = await issueKey();
  const dayFrom = (days: number) => new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10);
  const summary = (to: string) =>
    request('GET', `/v1/orders/summary?from=${dayFrom(-1)}&to=${to}`, { token });
  const create = async (currency: string) =>
    (await request('POST', '/v1/orders', { token, body: newOrder({ currency }) })).json;

  await create('EUR');
  await create('USD');
  t.equal((await summary(dayFrom(1))).json.rows.length, 2, 'as many as allowed');
  const order = await create('JPY');
  const refused = await summary(dayFrom(2));
  t.match(refused.json, {
    status: 422,
    code: 'result_too_large',
    detail: 'More than 2 rows; ask for fewer days',
  });
  t.equal((await summary(dayFrom(2))).status, 422, 'a failure is not cached as an answer');

  await withClient(url, async (client) => {
    await client.query('begin');
    await client.query('lock table orders in access exclusive mode');
    const locked = await request('GET', '/v1/orders', { token });
    t.match(locked.json, { status: 503, code: 'unavailable' });
    t.ok(Number(locked.headers['retry-after']) >= 1);
    await client.query('rollback');

    await client.query('alter table orders rename to orders_stored');
    await client.query('create view orders as select stored.* from orders_stored stored, pg_sleep(2)');
    const startedAt = performance.now();
    const slow = await request('GET', '/v1/orders', { token });
    t.match(slow.json, { status: 504, code: 'timeout', detail: 'The request took too long' });
    t.ok(performance.now() - startedAt < 1_000);
    t.equal((await request('GET', `/v1/orders/${order.id}`, { token })).status, 504);
    const { rows } = await client.query(
      `select 1 from pg_stat_activity where datname = current_database() and query like '%from orders%' and state = 'active' and pid <> pg_backend_pid()`,
    );
    t.same(rows, [], 'Postgres works on none of them any more');
  });
});

t.test('a repeated POST with the same Idempotency-Key has one effect and one answer', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token } = await issueKey();
  const { token: colleague } = await issueKey();
  const { token: stranger } = await issueKey({ tenant: 'globex' });
  const body = newOrder();
  const { reference, currency, items } = body;
  const post = (payload: unknown, key = 'once', token_ = token) =>
    request('POST', '/v1/orders', { token: token_, body: payload, headers: { 'idempotency-key': key } });

  const first = await post(body);
  t.equal(first.status, 201);
  t.equal(first.headers['idempotency-replayed'], undefined);
  const item = Object.fromEntries(Object.entries(items[0] ?? {}).toReversed());
  for (const repeated of [
    await post(body),
    await post({ items: [item], currency, reference }),
    await post(body, 'once', colleague),
  ]) {
    t.equal(repeated.status, 201);
    t.equal(repeated.text, first.text);
    t.equal(repeated.headers['idempotency-replayed'], 'true');
    for (const name of ['location', 'etag', 'content-type']) {
      t.equal(repeated.headers[name], first.headers[name], name);
    }
  }

  const reused = await post({ ...body, currency: 'USD' });
  t.match(reused.json, { status: 422, code: 'idempotency_key_reused' });
  t.match(
    (await post(body, 'other')).json,
    { status: 409, code: 'conflict' },
    'another key is another request',
  );
  const elsewhere = await post(body, 'once', stranger);
  t.equal(elsewhere.status, 201);
  t.equal(elsewhere.headers['idempotency-replayed'], undefined);
  t.not(elsewhere.json.id, first.json.id);
  t.equal((await request('GET', '/v1/orders', { token })).json.data.length, 1);
  for (const key of ['', 'with blank', 'x'.repeat(256), 'ü']) {
    t.equal((await post(newOrder(), key)).status, 400, key);
  }
  t.equal((await post(newOrder(), 'x'.repeat(255))).status, 201);
});

t.test('what failed is not remembered: the same key may try again', async (t) => {
  const url = await createDatabase(t);
  const { request, issueKey } = await startTestApp(t, { DATABASE_URL: url });
  const { token } = await issueKey();
  const post = (body: unknown) =>
    request('POST', '/v1/orders', { token, body, headers: { 'idempotency-key': 'once' } });
  const taken = newOrder();
  await request('POST', '/v1/orders', { token, body: taken });

  t.equal((await post({ nonsense: true })).status, 400);
  t.equal((await post(taken)).status, 409);
  await withClient(url, async (client) => {
    await client.query('alter table orders rename to orders_away');
    t.equal((await post(newOrder())).status, 500);
    await client.query('alter table orders_away rename to orders');
  });
  t.equal(await countRows(url, 'idempotency_record'), 0);

  const answer = await post(newOrder());
  t.equal(answer.status, 201);
  t.equal(answer.headers['idempotency-replayed'], undefined);
});

t.test('a repeat while the first still runs is told to come back, and 20 at once make one row', async (t) => {
  const url = await createDatabase(t);
  const first = await startTestApp(t, { DATABASE_URL: url, CONNECTION_POOL_SIZE: '12' });
  const second = await startTestApp(t, { DATABASE_URL: url, CONNECTION_POOL_SIZE: '12' });
  const { token } = await first.issueKey();
  const post = ({ request }: TestApp, key: string, body: unknown) =>
    request('POST', '/v1/orders', { token, body, headers: { 'idempotency-key': key } });

  const slow = newOrder();
  await withClient(url, async (client) => {
    await client.query('begin; lock table orders in exclusive mode');
    const running = post(first, 'slow', slow);
    await untilBlocked(url);
    for (const app of [first, second]) {
      const refused = await post(app, 'slow', slow);
      t.match(refused.json, { status: 409, code: 'idempotency_in_progress' });
      t.equal(refused.headers['retry-after'], '1');
    }
    await client.query('rollback');
    t.equal((await running).status, 201);
    t.equal((await post(second, 'slow', slow)).headers['idempotency-replayed'], 'true');
  });

  const body = newOrder();
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, index) => post(index % 2 ? first : second, 'burst', body)),
  );
  const made = answers.filter(({ status, headers }) => status === 201 && !headers['idempotency-replayed']);
  t.equal(made.length, 1);
  t.ok(answers.every(({ status, json }) => status === 201 || json.code === 'idempotency_in_progress'));
  t.equal(await countRows(url, `orders where reference = '${body.reference}'`), 1);
  t.equal((await post(first, 'burst', body)).text, made[0]?.text);
});

t.test('an Idempotency-Key is forgotten after its time, and its record removed', async (t) => {
  const url = await createDatabase(t);
  const { request, issueKey, services } = await startTestApp(t, {
    DATABASE_URL: url,
    IDEMPOTENCY_TTL_SECONDS: '0.3',
  });
  const { token } = await issueKey();
  const post = (body: unknown, key: string) =>
    request('POST', '/v1/orders', { token, body, headers: { 'idempotency-key': key } });
  t.equal((await post(newOrder(), 'once')).status, 201);
  await delay(350);

  const again = await post(newOrder(), 'once');
  t.equal(again.status, 201, 'a new request, and no purge was needed for it');
  t.equal(again.headers['idempotency-replayed'], undefined);
  t.equal(await countRows(url, 'idempotency_record'), 1);

  await withClient(url, (client) =>
    client.query(
      `insert into idempotency_record (tenant, key, fingerprint, status, headers, body, expires_at)
       select 'acme', 'old' || n, '', 201, '{}', '', now() - n * interval '1 second' from generate_series(1, 2500) n`,
    ),
  );
  await withClient(url, (client) =>
    client.query(`update idempotency_record set expires_at = now() + interval '1 hour' where key = 'once'`),
  );
  await services.idempotency.purge();
  t.equal(await countRows(url, 'idempotency_record'), 1, 'all that expired and nothing else');
  t.equal(await countRows(url, 'orders'), 2);
});

t.test('a crash leaves the effect and its answer, or neither', async (t) => {
  const url = await createDatabase(t);
  const app = await startTestApp(t, { DATABASE_URL: url });
  const { token } = await app.issueKey();
  const postHere = (body: unknown, key: string) =>
    app.request('POST', '/v1/orders', { token, body, headers: { 'idempotency-key': key } });

  const body = newOrder();
  await betweenEffectAndAnswer(url, async (client) => {
    const cut = postHere(body, 'cut');
    await untilBlocked(url);
    await client.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and wait_event_type = 'Lock'`,
    );
    t.equal((await cut).status, 503);
  });
  t.equal(await countRows(url, 'orders'), 0);
  t.equal(await countRows(url, 'idempotency_record'), 0);
  t.equal((await postHere(body, 'cut')).status, 201);

  const child = await startKillable(t, url);
  const killed = newOrder();
  await betweenEffectAndAnswer(url, async () => {
    const lost = t.rejects(child.post(killed, 'killed'));
    await untilBlocked(url);
    await child.kill();
    await lost;
  });
  await untilBlocked(url, 0);
  t.equal(await countRows(url, `orders where reference = '${killed.reference}'`), 0);
  t.equal((await postHere(killed, 'killed')).status, 201, 'another process takes over');

  const other = await startKillable(t, url);
  const bodies = Array.from({ length: 200 }, () => newOrder());
  const sent = bodies.map((each) =>
    other.post(each, `load ${each.reference}`.replace(' ', '-')).catch(() => undefined),
  );
  await until('orders are made', async () => (await countRows(url, 'orders')) > 40);
  await other.kill();
  await Promise.all(sent);
  const pairs = await withClient(url, async (client) => {
    const { rows } = await client.query(
      `select reference, key from orders full join idempotency_record on key = 'load-' || reference
       where coalesce(key, '') like 'load-%' or reference = any($1)`,
      [bodies.map(({ reference }) => reference)],
    );
    return rows;
  });
  t.ok(pairs.length > 30 && pairs.length < 200, `${pairs.length} of 200 were made`);
  t.same(
    pairs.filter(({ reference, key }) => !reference || !key),
    [],
  );
});

t.test('a write whose answer to COMMIT got lost is a write to everybody who reads', async (t) => {
  const redis = await redisUrl(t);
  if (!redis) return;
  const url = await createDatabase(t);
  const proxy = await startTcpProxy(t, Number(new URL(url).port));
  const throughProxy = Object.assign(new URL(url), { hostname: '127.0.0.1', port: String(proxy.port) }).href;
  const cut = await startTestApp(t, {
    DATABASE_URL: throughProxy,
    // Not to read from: a write position is recorded only if there is a replica.
    DATABASE_URL_REPLICA: url,
    REDIS_URL: redis,
  });
  const other = await startTestApp(t, { DATABASE_URL: url, REDIS_URL: redis });
  const { token } = await cut.issueKey();
  const store = new Redis(redis);
  t.teardown(() => store.disconnect());
  const today = new Date().toISOString().slice(0, 10);
  const statuses = async ({ request }: TestApp) => {
    const { json } = await request('GET', `/v1/orders/summary?from=${today}&to=${today}`, { token });
    return json.rows.map((row: { status: string; orders: number }) => `${row.status} ${row.orders}`).join();
  };
  const everywhere = (wanted: string) =>
    until(wanted || 'no order', async () =>
      (await Promise.all([cut, other].map(statuses))).every((found) => found === wanted),
    );
  const writes = async (write: () => Promise<{ status: number; json: any }>, atOnce = false) => {
    await store.del('hp:wrote:acme');
    proxy.loseAnswerTo('commit\0', atOnce);
    const { status, json } = await write();
    t.match([status, json], [504, { code: 'timeout', detail: /unknown whether/ }]);
    t.equal(await store.exists('hp:wrote:acme'), 1, 'its position is recorded');
  };
  await everywhere('');

  const post = { token, body: newOrder(), headers: { 'idempotency-key': 'lost' } };
  await writes(() => cut.request('POST', '/v1/orders', post));
  await everywhere('pending 1');
  const { status, json, headers } = await cut.request('POST', '/v1/orders', post);
  t.match([status, headers['idempotency-replayed']], [201, 'true']);
  const order = `/v1/orders/${json.id}`;
  const read = async () => (await other.request('GET', order, { token })).json.status;
  t.equal(await read(), 'pending');

  await writes(() => patch(cut.request, token, order, '"1"', 'paid'));
  await everywhere('paid 1');
  t.equal(await read(), 'paid');

  await withClient(url, (client) =>
    client.query(`
      create function wait() returns trigger language plpgsql as
        $$ begin perform pg_sleep(1); return null; end $$;
      create constraint trigger wait after update on orders
        deferrable initially deferred for each row execute function wait()`),
  );
  await writes(() => patch(cut.request, token, order, '"2"', 'shipped'), true);
  t.equal(await read(), 'paid', 'the COMMIT still runs');
  await until('it is over and read', async () => (await read()) === 'shipped');

  await writes(() => cut.request('DELETE', order, { token, headers: { 'if-match': '"3"' } }));
  await everywhere('');
  t.equal((await other.request('GET', order, { token })).status, 404);
  const stored = await store.keys(`*order-summary*${today} ${today}*`);
  t.equal(stored.filter((key) => !key.includes(':lease')).length, 1, 'no write left an old summary behind');
});

function patch(
  request: TestApp['request'],
  token: string,
  url: string,
  ifMatch: string | undefined,
  status: string,
) {
  return request('PATCH', url, {
    token,
    body: { status },
    ...(ifMatch && { headers: { 'if-match': ifMatch } }),
  });
}

/** Whoever did the work waits before it can store its answer, until `work` is done. */
async function betweenEffectAndAnswer(url: string, work: (client: Client) => Promise<void>): Promise<void> {
  await withClient(url, async (client) => {
    await client.query('begin; lock table idempotency_record in exclusive mode');
    await work(client);
    await client.query('rollback');
  });
}

async function untilBlocked(url: string, requests = 1): Promise<void> {
  const blocked = `pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
  await until('they are blocked', async () => (await countRows(url, blocked)) === requests);
}

async function countRows(url: string, from: string): Promise<number> {
  return withClient(url, async (client) => {
    const { rows } = await client.query(`select count(*)::int as count from ${from}`);
    return rows[0].count;
  });
}

/** The service as a process of its own, which can be killed. */
async function startKillable(t: Test, DATABASE_URL: string) {
  const { token } = createToken('live');
  const { child, url, ended } = await startService(t, {
    DATABASE_URL,
    API_KEYS: `acme:${token}`,
    // It listens before it has stored that key.
    AUTH_FAILURES_PER_MINUTE: '1000000',
    LOG_LEVEL: 'warn',
  });
  const kill = async () => {
    child.kill('SIGKILL');
    await ended;
  };
  const post = (body: unknown, key: string) =>
    fetch(`${url}/v1/orders`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${token}`,
        'content-type': 'application/json',
        'idempotency-key': key,
      },
      body: JSON.stringify(body),
    });
  await until('it answers', async () => {
    const { status } = await fetch(`${url}/v1/orders`, { headers: { 'x-api-key': token } });
    return status === 200;
  });
  return { post, kill };
}
