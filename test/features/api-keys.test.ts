import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import t from 'tap';
import { runApiKey } from '../../src/cli/api-key.ts';
import { seedKeys } from '../../src/auth/seed-keys.ts';
import { createToken, parseToken } from '../../src/auth/token.ts';
// example:start
import { newOrder } from '../support/app.ts';
// example:end
import { startTestApp, type TestApp } from '../support/app.ts';
import { createDatabase, withClient } from '../support/postgres.ts';
import { redisUrl, startRedis } from '../support/redis.ts';
import { runCommand, type CommandResult } from '../support/service.ts';
import { startTcpProxy } from '../support/tcp-proxy.ts';
import { until } from '../support/until.ts';

const TOKEN = /^hp_live_[0-9A-Za-z]{12}_[0-9A-Za-z]{36}$/;
const ANYWHERE = '/v1/nowhere';
const LET_IN = 404;
const API_KEY_SECRET = 'only-for-tests-8b1f0c6d2e9a4753-51f6';
const SECRET_KEY = 'only-for-tests-8b1f0c6d2e9a4753-51f7';
const ACTOR = { actor: 'test', requestId: null, ip: null };

t.test('a key is created, listed, read, changed and revoked, and shown once', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token: admin } = await issueKey();
  const body = { name: 'nightly export', scopes: ['audit:read'], limitPerMinute: 30 };

  const created = await request('POST', '/v1/api-keys', { token: admin, body });
  t.equal(created.status, 201);
  const { token, ...key } = created.json;
  t.match(token, TOKEN);
  t.equal(created.headers.location, `/v1/api-keys/${key.id}`);
  t.match(key, { ...body, expiresAt: null, revokedAt: null, lastUsedAt: null, replacedBy: null });
  t.equal(token.slice(-10, -6), key.hint);
  t.equal((await request('GET', '/v1/audit-events', { token })).status, 200);

  const read = await request('GET', `/v1/api-keys/${key.id}`, { token: admin });
  t.same(read.json, key, 'all of it but the key itself');
  const listed = await request('GET', '/v1/api-keys', { token: admin });
  t.same(
    listed.json.data.find(({ id }: { id: string }) => id === key.id),
    key,
  );
  const changed = await request('PATCH', `/v1/api-keys/${key.id}`, {
    token: admin,
    headers: { 'if-match': String(read.headers.etag) },
    body: { name: 'hourly export', limitPerMinute: null },
  });
  t.same(changed.json, { ...key, name: 'hourly export', limitPerMinute: null });

  t.equal((await request('DELETE', `/v1/api-keys/${key.id}`, { token: admin })).status, 204);
  t.equal((await request('GET', '/v1/audit-events', { token })).status, 401);
  t.equal(
    (await request('DELETE', `/v1/api-keys/${key.id}`, { token: admin })).status,
    204,
    'the same again',
  );
  const revoked = await request('GET', `/v1/api-keys/${key.id}`, { token: admin });
  t.match(revoked.json, { revokedAt: /^20/ });
  t.notMatch(read.text + listed.text + changed.text + revoked.text, token.slice(-36));
});

t.test('revocation is final', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token: admin } = await issueKey();
  const { id, token } = await issueKey();
  await request('DELETE', `/v1/api-keys/${id}`, { token: admin });
  const revokedAt = (await request('GET', `/v1/api-keys/${id}`, { token: admin })).json.revokedAt;

  const body = { scopes: ['*'], expiresAt: new Date(Date.now() + 60_000).toISOString() };
  t.equal((await change(request, id, { token: admin, body })).status, 404);
  const rotated = await request('POST', `/v1/api-keys/${id}/rotate`, { token: admin, body: {} });
  t.equal(rotated.status, 409);
  await request('DELETE', `/v1/api-keys/${id}`, { token: admin });

  t.equal((await request('GET', `/v1/api-keys/${id}`, { token: admin })).json.revokedAt, revokedAt);
  t.equal((await request('GET', ANYWHERE, { token })).status, 401);
});

t.test('what cannot be a key is refused and nothing is stored', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { id, token } = await issueKey();
  const good = { name: 'x', scopes: ['audit:read'] };
  const past = new Date(Date.now() - 1000).toISOString();

  for (const body of [
    {},
    { ...good, name: '' },
    { ...good, name: 'x'.repeat(101) },
    { ...good, name: 'a\u0000b' },
    { ...good, name: 'a\nb' },
    { ...good, scopes: [] },
    { ...good, scopes: ['audit'] },
    { ...good, scopes: ['Audit:Read'] },
    { ...good, limitPerMinute: 0 },
    { ...good, limitPerMinute: 1.5 },
    { ...good, limitPerMinute: '10' },
    { ...good, expiresAt: past },
    { ...good, expiresAt: 'tomorrow' },
    { ...good, tenant: 'globex' },
    { ...good, id: 'chosen' },
  ]) {
    const answer = await request('POST', '/v1/api-keys', { token, body });
    t.equal(answer.status, 400, JSON.stringify(body));
    t.equal(answer.json.code, 'validation_failed');
  }
  for (const body of [{}, { expiresAt: past }, { tenant: 'globex' }, { revokedAt: null }, { name: null }]) {
    const { status } = await change(request, id, { token, body });
    t.equal(status, 400, JSON.stringify(body));
  }
  for (const body of [{ overlapSeconds: -1 }, { overlapSeconds: 30 * 86_400 + 1 }, { overlap: 1 }]) {
    const { status } = await request('POST', `/v1/api-keys/${id}/rotate`, { token, body });
    t.equal(status, 400, JSON.stringify(body));
  }
  t.equal((await request('GET', '/v1/api-keys/not-an-id', { token })).status, 400);
  t.equal((await request('GET', '/v1/api-keys', { token })).json.data.length, 1);
});

t.test('rotation gives a new key with all that the old one had, which ends at once or later', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token: admin } = await issueKey();
  const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
  const wanted = { name: 'export', scopes: ['audit:read'], limitPerMinute: 30, expiresAt };
  const rotate = (id: string, overlapSeconds?: number) =>
    request('POST', `/v1/api-keys/${id}/rotate`, { token: admin, body: { overlapSeconds } });
  const statusOf = async (token: string) => (await request('GET', ANYWHERE, { token })).status;
  const read = async (id: string) => (await request('GET', `/v1/api-keys/${id}`, { token: admin })).json;

  const old = await issueKey(wanted);
  t.equal(await statusOf(old.token), LET_IN);
  const atOnce = await rotate(old.id);
  t.equal(atOnce.status, 201);
  t.match(atOnce.json, { ...wanted, revokedAt: null, replacedBy: null });
  t.match(atOnce.json.token, TOKEN);
  t.not(atOnce.json.id, old.id);
  t.equal(atOnce.headers.location, `/v1/api-keys/${atOnce.json.id}`);
  t.equal(await statusOf(old.token), 401, 'without overlap the old key is over');
  t.equal(await statusOf(atOnce.json.token), LET_IN);
  t.match(await read(old.id), { replacedBy: atOnce.json.id, revokedAt: /^20/ });

  const overlapping = await rotate(atOnce.json.id, 1);
  t.equal(await statusOf(atOnce.json.token), LET_IN, 'both work for a second');
  t.equal(await statusOf(overlapping.json.token), LET_IN);
  t.equal((await rotate(atOnce.json.id)).status, 409, 'a key is rotated once');
  await delay(1_010);
  t.equal(await statusOf(atOnce.json.token), 401, 'then the old one is over');
  t.equal(await statusOf(overlapping.json.token), LET_IN);
  t.equal((await rotate(atOnce.json.id)).status, 409, 'an expired key is not rotated');

  await rotate(overlapping.json.id, 86_400);
  t.equal((await read(overlapping.json.id)).expiresAt, expiresAt, 'never past its own expiry');
  const eternal = await issueKey();
  const before = Date.now();
  await rotate(eternal.id, 60);
  const endsAt = Date.parse((await read(eternal.id)).expiresAt);
  t.ok(endsAt >= before + 59_000 && endsAt <= Date.now() + 61_000);
  t.equal((await rotate('0'.repeat(12))).status, 404);
});

t.test('of many rotations at once one wins, and none brings a revoked key back', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token: admin } = await issueKey();
  const rotate = (id: string) =>
    request('POST', `/v1/api-keys/${id}/rotate`, { token: admin, body: { overlapSeconds: 3600 } });

  const { id } = await issueKey();
  const answers = await Promise.all(Array.from({ length: 5 }, () => rotate(id)));
  t.same(answers.map(({ status }) => status).toSorted(), [201, 409, 409, 409, 409]);
  t.equal((await request('GET', '/v1/api-keys', { token: admin })).json.data.length, 3);

  for (let i = 0; i < 15; i++) {
    const key = await issueKey();
    const [rotated] = await Promise.all([
      rotate(key.id),
      request('DELETE', `/v1/api-keys/${key.id}`, { token: admin }),
    ]);
    t.match(String(rotated.status), /^(201|409)$/);
    t.equal((await request('GET', ANYWHERE, { token: key.token })).status, 401);
  }
});

t.test('nobody makes a key that may do more than his own', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token } = await issueKey({ scopes: ['keys:admin', 'audit:read'] });
  const { id: mightier } = await issueKey({ scopes: ['*'] });
  const { id: equal } = await issueKey({ scopes: ['audit:read'] });
  const create = (scopes: string[]) =>
    request('POST', '/v1/api-keys', { token, body: { name: 'x', scopes } });

  t.equal((await create(['audit:read', 'keys:admin'])).status, 201);
  t.match((await create(['keys:read'])).json, { status: 403, detail: 'Your own key lacks keys:read' });
  t.equal((await create(['*'])).status, 403);
  t.equal((await change(request, equal, { token, body: { scopes: ['*'] } })).status, 403);
  const prolonged = await change(request, mightier, { token, body: { expiresAt: null } });
  t.match(prolonged.json, { status: 403, detail: 'Your own key lacks *' }, 'nor keeps one alive');
  const stolen = await request('POST', `/v1/api-keys/${mightier}/rotate`, { token, body: {} });
  t.equal(stolen.status, 403, 'the successor would be told to the wrong one');
  t.equal((await request('POST', `/v1/api-keys/${equal}/rotate`, { token, body: {} })).status, 201);
  const { json } = await request('GET', `/v1/api-keys/${mightier}`, { token });
  t.match(json, { revokedAt: null, replacedBy: null });
});

t.test('nobody makes, changes, rotates or revokes a key that has more than his own', async (t) => {
  const { request, issueKey } = await startTestApp(t, {
    RATE_LIMIT_ENABLED: 'false',
    RATE_LIMIT_PER_MINUTE: '100',
  });
  const soon = new Date(Date.now() + 3_600_000).toISOString();
  const later = new Date(Date.now() + 86_400_000).toISOString();
  const admin = ['keys:admin', 'a:b'];
  type Rights = { scopes: string[]; limitPerMinute: number | null; expiresAt: string | null };
  const makers: Record<string, Rights> = {
    everything: { scopes: ['*'], limitPerMinute: null, expiresAt: null },
    twoScopes: { scopes: admin, limitPerMinute: null, expiresAt: null },
    lowLimit: { scopes: admin, limitPerMinute: 5, expiresAt: null },
    ending: { scopes: admin, limitPerMinute: null, expiresAt: later },
    highLimit: { scopes: admin, limitPerMinute: 500, expiresAt: null },
  };
  const all = Object.keys(makers);
  const cases: [rights: Rights, makers: string[]][] = [
    [{ scopes: ['a:b'], limitPerMinute: 5, expiresAt: soon }, all],
    [{ scopes: ['a:b'], limitPerMinute: 5, expiresAt: later }, all],
    [{ scopes: ['*'], limitPerMinute: 5, expiresAt: soon }, ['everything']],
    [{ scopes: ['a:b', 'c:d'], limitPerMinute: 5, expiresAt: soon }, ['everything']],
    [{ scopes: ['a:b'], limitPerMinute: 6, expiresAt: soon }, all.filter((maker) => maker !== 'lowLimit')],
    [{ scopes: ['a:b'], limitPerMinute: null, expiresAt: soon }, all.filter((maker) => maker !== 'lowLimit')],
    [{ scopes: ['a:b'], limitPerMinute: 101, expiresAt: soon }, ['highLimit']],
    [{ scopes: ['a:b'], limitPerMinute: 10_000_000, expiresAt: soon }, []],
    [
      { scopes: ['a:b'], limitPerMinute: 5, expiresAt: new Date(Date.parse(later) + 1_000).toISOString() },
      all.filter((maker) => maker !== 'ending'),
    ],
    [{ scopes: ['a:b'], limitPerMinute: 5, expiresAt: null }, all.filter((maker) => maker !== 'ending')],
  ];
  const least = { scopes: ['a:b'], limitPerMinute: 1, expiresAt: soon };

  for (const [maker, own] of Object.entries(makers)) {
    const { token } = await issueKey(own);
    for (const [rights, allowed] of cases) {
      const name = `${maker}: ${JSON.stringify(rights)}`;
      const may = allowed.includes(maker);
      const check = ({ status, json }: Awaited<ReturnType<typeof request>>, act: string) => {
        t.equal(status < 300, may, `${act} by ${name}: ${status}`);
        if (!may) t.match(json, { status: 403, code: 'forbidden', detail: /^Your own key / }, name);
      };
      check(await request('POST', '/v1/api-keys', { token, body: { name: 'x', ...rights } }), 'create');
      const weak = await issueKey(least);
      check(await change(request, weak.id, { token, body: rights }), 'change to more');
      const { id } = await issueKey(rights);
      check(await change(request, id, { token, body: { name: 'y' } }), 'change of more');
      check(await request('DELETE', `/v1/api-keys/${id}`, { token }), 'revoke');
      const { id: other } = await issueKey(rights);
      check(await request('POST', `/v1/api-keys/${other}/rotate`, { token, body: {} }), 'rotate');
    }
  }

  const { id, token } = await issueKey({ scopes: ['keys:admin'], limitPerMinute: 5, expiresAt: later });
  const own = await change(request, id, { token, body: { limitPerMinute: 10_000_000, expiresAt: null } });
  t.equal(
    own.json.detail,
    `Your own key may make 5 requests a minute, less than 10000000; it ends at ${later}, earlier than a key without an end`,
  );
  t.equal((await change(request, id, { token, body: { limitPerMinute: 4 } })).status, 200);
  const successor = await request('POST', `/v1/api-keys/${id}/rotate`, { token, body: {} });
  t.match(successor.json, { limitPerMinute: 4, expiresAt: later }, 'its own it rotates');
});

t.test('who changes a key says which state of it he knows', async (t) => {
  const { request, issueKey, services } = await startTestApp(t);
  const { token } = await issueKey();
  const { id, token: used } = await issueKey({ scopes: ['audit:read', 'keys:admin'] });
  const read = () => request('GET', `/v1/api-keys/${id}`, { token });
  const narrow = (ifMatch?: string) =>
    request('PATCH', `/v1/api-keys/${id}`, {
      token,
      body: { scopes: ['audit:read'] },
      ...(ifMatch === undefined ? {} : { headers: { 'if-match': ifMatch } }),
    });
  const etagOf = (answer: { headers: Record<string, unknown> } | undefined) => String(answer?.headers.etag);
  const etag = etagOf(await read());

  t.match((await narrow()).json, { status: 428, code: 'precondition_required' });
  for (const wrong of ['"1"', `W/${etag}`, `${etag} "1"`, '"1", "2"']) {
    t.match((await narrow(wrong)).json, { status: 412, code: 'precondition_failed' }, wrong);
  }
  t.same((await read()).json.scopes, ['audit:read', 'keys:admin']);
  await request('GET', ANYWHERE, { token: used });
  await services.auth.usage.flush();
  t.equal(etagOf(await read()), etag, 'its use changes nothing of it');

  const changes = await Promise.all([narrow(etag), narrow(etag), narrow(etag)]);
  t.same(changes.map(({ status }) => status).toSorted(), [200, 412, 412], 'of many at once one wins');
  const winner = changes.find(({ status }) => status === 200);
  t.equal(etagOf(winner), etagOf(await read()));
  t.equal((await narrow(etagOf(winner))).status, 200, 'who makes two changes need not read in between');
  t.equal((await narrow(`"1", ${etagOf(await read())}`)).status, 200, 'one of a list is enough');
  t.equal((await narrow('*')).status, 200);
});

t.test('a changed limit counts from the next request on', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token: admin } = await issueKey();
  const { id, token } = await issueKey({ limitPerMinute: 50 });
  const policy = async () => (await request('GET', ANYWHERE, { token })).headers['ratelimit-policy'];

  t.match(await policy(), /q=50;/);
  t.equal((await change(request, id, { token: admin, body: { limitPerMinute: 70 } })).status, 200);
  t.match(await policy(), /q=70;/);
});

t.test('pages show each key once, also those of one millisecond', async (t) => {
  const url = await createDatabase(t);
  const { request, issueKey } = await startTestApp(t, { DATABASE_URL: url });
  const { token } = await issueKey();
  const ids: string[] = [];
  for (let i = 0; i < 22; i++) ids.push((await issueKey()).id);
  await issueKey({ tenant: 'globex' });
  await withClient(url, (client) =>
    client.query(
      `update api_key set created_at = timestamptz '2026-01-01 00:00:00.123000Z'
         + array_position($1, id) * interval '7 microseconds'
       where id = any($1)`,
      [ids],
    ),
  );

  const seen: string[] = [];
  for (let next = ''; next !== null;) {
    const path = `/v1/api-keys?limit=5${next && `&cursor=${next}`}`;
    const page = (await request('GET', path, { token })).json;
    seen.push(...page.data.map(({ id }: { id: string }) => id));
    next = page.next;
  }

  t.same(seen.slice(1), ids.toReversed());
});

t.test('a stranger gets 404 for every id of another tenant, on every route', async (t) => {
  const redis = await redisUrl(t);
  const { request, issueKey } = await startTestApp(t, redis ? { REDIS_URL: redis } : {});
  const owner = (await issueKey()).token;
  const stranger = (await issueKey({ tenant: 'globex' })).token;
  const document = (await request('GET', '/openapi.json')).json;
  const make: Record<string, () => Promise<string>> = {
    // example:start
    orders: async () => (await request('POST', '/v1/orders', { token: owner, body: newOrder() })).json.id,
    // example:end
    'api-keys': async () => (await issueKey()).id,
  };
  const absent: Record<string, string> = {
    // example:start
    orders: '0199d4f0-0000-7000-8000-000000000000',
    // example:end
    'api-keys': '0'.repeat(12),
  };
  const routes = Object.entries(document.paths).flatMap(([path, operations]) =>
    Object.entries(operations as Record<string, any>).map(([method, operation]) => ({
      path,
      method: method.toUpperCase(),
      operation,
    })),
  );

  const withId = routes.filter(({ path }) => path.includes('{'));
  for (const { path, method, operation } of withId) {
    const [, collection = ''] = /^\/v1\/([^/]+)\/\{id\}/.exec(path) ?? [];
    const id = await make[collection]?.();
    if (id === undefined) throw new Error(`${path}: say here how to make one`);
    const schemaRef = operation.requestBody?.content['application/json'].schema.$ref;
    const body = schemaRef && document.components.schemas[schemaRef.split('/').at(-1)].examples[0];
    // What the owner knows helps no stranger.
    const known = await request('GET', `/v1/${collection}/${id}`, { token: owner });
    const ask = (token: string, of: string) => {
      const headers = { 'if-match': String(known.headers.etag) };
      const url = path.replace('{id}', of);
      return request(method, url, { token, headers, ...(body && { body }) });
    };

    const refused = await ask(stranger, id);

    const unknown = await ask(owner, String(absent[collection]));
    t.equal(refused.status, 404, `${method} ${path}`);
    t.same({ ...refused.json, instance: '' }, { ...unknown.json, instance: '' }, 'as if there were none');
    t.match(String((await ask(owner, id)).status), /^20\d$/, 'which there is');
  }
  t.ok(withId.length >= 4, `${withId.length} routes`);
  for (const url of ['/v1/api-keys', '/v1/audit-events']) {
    const { json } = await request('GET', url, { token: stranger });
    t.ok(
      json.data.every(({ object, name }: any) => object !== undefined || name === 'test'),
      url,
    );
    t.equal(json.data.length, 1, url);
  }
  // example:start
  t.same((await request('GET', '/v1/orders', { token: stranger })).json.data, []);
  // example:end
});

t.test('no table, no log and no metric holds a key, only its digest', async (t) => {
  const url = await createDatabase(t);
  const app = await startTestApp(t, { DATABASE_URL: url, LOG_LEVEL: 'trace', SECRET_KEY });
  const { request, issueKey, internal, logs } = app;
  const { token: admin } = await issueKey();
  const body = { name: 'x', scopes: ['*'] };
  const headers = { 'idempotency-key': 'once' };
  const created = await request('POST', '/v1/api-keys', { token: admin, body, headers });
  const rotated = await request('POST', `/v1/api-keys/${created.json.id}/rotate`, { token: admin, body: {} });
  // example:start
  const order = { body: newOrder(), headers: { 'idempotency-key': 'order' } };
  t.equal((await request('POST', '/v1/orders', { token: rotated.json.token, ...order })).status, 201);
  // example:end
  await request('GET', ANYWHERE, { token: `${rotated.json.token}x` });
  await app.services.auth.usage.flush();

  const dump = await dumpTables(url);

  t.match(dump, rotated.json.id, 'the dump holds what there is');
  const everything = [dump, JSON.stringify(logs), (await internal.inject('/metrics')).body].join('\n');
  for (const token of [admin, created.json.token, rotated.json.token]) {
    for (const secret of [token, token.slice(-36), token.slice(-36, -6)]) {
      const forms = [secret, Buffer.from(secret).toString('hex'), Buffer.from(secret).toString('base64')];
      for (const form of forms) t.notOk(everything.includes(form));
    }
  }
});

t.test(
  'A repeated `POST` with the same `Idempotency-Key` has one effect, on every route that accepts the header; a route that does not accept it refuses it.',
  async (t) => {
    const url = await createDatabase(t);
    const app = await startTestApp(t, { DATABASE_URL: url, SECRET_KEY });
    const other = await startTestApp(t, { DATABASE_URL: url, SECRET_KEY });
    const { token } = await app.issueKey();
    const { token: colleague } = await app.issueKey();
    const { json: old } = await app.request('POST', '/v1/api-keys', {
      token,
      body: { name: 'old', scopes: ['a:b'] },
    });
    const posts: [path: string, body: object][] = [
      ['/v1/api-keys', { name: 'made once', scopes: ['audit:read'] }],
      [`/v1/api-keys/${old.id}/rotate`, {}],
      // example:start
      ['/v1/orders', newOrder()],
      // example:end
    ];
    for (const [path, body] of posts) {
      const shot = { token, body, headers: { 'idempotency-key': `key of ${path}`.replaceAll(' ', '-') } };
      const burst = await Promise.all(
        Array.from({ length: 6 }, (_, index) => (index % 2 ? app : other).request('POST', path, shot)),
      );
      const first = burst.find(({ status, headers }) => status === 201 && !headers['idempotency-replayed']);
      t.ok(first, path);
      for (const answer of [...burst, await other.request('POST', path, shot)]) {
        if (answer.json.code === 'idempotency_in_progress') continue;
        t.equal(answer.status, 201);
        t.equal(answer.text, first?.text, 'the same answer, the token included');
        t.equal(answer.headers.location, first?.headers.location);
        t.equal(answer.headers.etag, first?.headers.etag);
      }
      const changed = await app.request('POST', path, { ...shot, body: { ...body, more: 1 } });
      t.equal(changed.status, 400);
      if (!path.startsWith('/v1/api-keys')) continue;
      t.match(await app.request('POST', path, { ...shot, token: colleague }), {
        status: 422,
        json: { code: 'idempotency_key_reused' },
      });
      t.equal((await app.request('GET', '/v1/nowhere', { token: first?.json.token })).status, LET_IN);
      t.notMatch(await dumpTables(url), first?.json.token.slice(-36, -6));
    }
    const made = await withClient(
      url,
      async (client) => (await client.query(`select name from api_key`)).rows,
    );
    t.same(made.map(({ name }) => name).toSorted(), ['made once', 'old', 'old', 'test', 'test']);

    const takes = new Set(posts.map(([path]) => `POST ${path.replace(old.id, '{id}')}`));
    const { paths } = (await app.request('GET', '/openapi.json')).json;
    for (const [path, operations] of Object.entries<Record<string, any>>(paths)) {
      if (!path.startsWith('/v1/')) continue;
      for (const [method, { parameters }] of Object.entries(operations)) {
        const route = `${method.toUpperCase()} ${path}`;
        const names = parameters.map(({ name }: { name: string }) => name);
        t.equal(names.includes('Idempotency-Key'), takes.has(route), `${route}: what the document says`);
        if (takes.has(route)) continue;
        for (const sent of route.startsWith('GET')
          ? (['GET', 'HEAD'] as const)
          : [method.toUpperCase() as 'PATCH']) {
          const { status, json } = await app.request(sent, path.replace('{id}', old.id), {
            token,
            headers: { 'idempotency-key': 'k' },
          });
          t.equal(status, 400, `${sent} ${path}`);
          if (sent !== 'HEAD')
            t.match(json, { code: 'bad_request', detail: /does not take an Idempotency-Key/ });
        }
      }
    }
  },
);

t.test('a response with a key that cannot be opened any more is told of, and what to do', async (t) => {
  const url = await createDatabase(t);
  const start = (secret: string) => startTestApp(t, { DATABASE_URL: url, SECRET_KEY: secret });
  const [before, after, none] = await Promise.all([
    start(SECRET_KEY),
    start(`${SECRET_KEY}-changed`),
    start(''),
  ]);
  const { token } = await before.issueKey();
  for (const [first, second] of [
    [before, after],
    [before, none],
    [none, none],
    [none, before],
  ] as const) {
    const shot = {
      token,
      body: { name: 'x', scopes: ['a:b'] },
      headers: { 'idempotency-key': createToken('live').id },
    };
    const { status, headers } = await first.request('POST', '/v1/api-keys', shot);
    t.equal(status, 201);
    const repeated = await second.request('POST', '/v1/api-keys', shot);
    t.match(repeated, {
      status: 409,
      json: { code: 'idempotency_response_gone', detail: /Rotate or revoke/ },
    });
    t.equal(repeated.headers.location, headers.location);
    const path = `${String(headers.location)}/rotate`;
    t.equal((await second.request('POST', path, { token, body: {} })).status, 201, 'as it says');
  }
});

t.test('every act is in the audit trail, with who, from where and which request', async (t) => {
  const url = await createDatabase(t);
  const { request, issueKey } = await startTestApp(t, { DATABASE_URL: url, TRUSTED_PROXIES: '10.0.0.0/8' });
  const { id: actor, token } = await issueKey();
  const from = { token, remoteAddress: '10.0.0.1', headers: { 'x-forwarded-for': '203.0.113.9' } };
  const created = await request('POST', '/v1/api-keys', { ...from, body: { name: 'x', scopes: ['a:b'] } });
  const { id } = created.json;
  const changed = await change(request, id, { ...from, body: { scopes: ['a:c'] } });
  const rotate = `/v1/api-keys/${id}/rotate`;
  const rotated = await request('POST', rotate, { ...from, body: { overlapSeconds: 60 } });
  const revoked = await request('DELETE', `/v1/api-keys/${id}`, from);
  await request('DELETE', `/v1/api-keys/${id}`, from);
  t.equal((await request('POST', rotate, { ...from, body: {} })).status, 409);
  await issueKey({ tenant: 'globex' });

  const { json } = await request('GET', '/v1/audit-events', { token });

  t.match(
    json.data.slice(0, 4),
    [
      ['api_key.revoked', revoked, {}],
      ['api_key.rotated', rotated, { successor: rotated.json.id, overlapSeconds: 60 }],
      ['api_key.changed', changed, { fields: ['scopes'] }],
      ['api_key.created', created, { scopes: ['a:b'] }],
    ].map(([action, answer, detail]: any) => ({
      action,
      actor,
      object: `api_key:${id}`,
      outcome: 'success',
      requestId: answer.headers['x-request-id'],
      ip: '203.0.113.9',
      detail,
    })),
  );
  t.equal(json.data.length, 5, 'what was refused or changed nothing left no event');
  t.match(json.data[4], { actor: 'test', object: `api_key:${actor}` });
  const pages: string[] = [];
  for (let next = ''; next !== null;) {
    const page = await request('GET', `/v1/audit-events?limit=2${next && `&cursor=${next}`}`, { token });
    pages.push(...page.json.data.map((event: { id: string }) => event.id));
    next = page.json.next;
  }
  t.same(
    pages,
    json.data.map((event: { id: string }) => event.id),
  );
  const cursorOfKeys = (await request('GET', '/v1/api-keys?limit=1', { token })).json.next;
  for (const cursor of [cursorOfKeys, `${cursorOfKeys}AA`, 'AAAAAAAAAAAAAAAAAAAAAAAA']) {
    const answer = await request('GET', `/v1/audit-events?cursor=${cursor}`, { token });
    t.match(answer.json, { status: 404, code: 'not_found' });
  }
  for (const cursor of ['', 'x', 'A'.repeat(65), `${cursorOfKeys}.`]) {
    const answer = await request('GET', `/v1/audit-events?cursor=${cursor}`, { token });
    t.match(answer.json, { status: 400, code: 'validation_failed' });
  }
  await withClient(url, async (client) => {
    await t.rejects(client.query('delete from audit_event'), /append-only/);
    await t.rejects(client.query('update audit_event set actor = actor'), /append-only/);
  });
});

t.test('what was denied is in the audit trail, once a minute with a count', async (t) => {
  const url = await createDatabase(t);
  const { request, issueKey, services } = await startTestApp(t, {
    DATABASE_URL: url,
    RATE_LIMIT_PER_MINUTE: '30',
  });
  const { auditQueue } = services.auth;
  const reader = await issueKey({ scopes: ['audit:read'] });
  const weak = await issueKey({ scopes: ['keys:admin'] });
  const busy = await issueKey({ scopes: ['audit:read'], limitPerMinute: 2 });
  const revoked = await issueKey();
  await services.admin.revoke('acme', revoked.id, ACTOR);
  const expired = await issueKey({ expiresAt: new Date(Date.now() - 1_000).toISOString() });
  const operator = await issueKey({ tenant: 'operator', scopes: ['audit:read'] });

  const from = { remoteAddress: '203.0.113.9' };
  const denied = await request('POST', '/v1/api-keys', { ...from, token: reader.token, body: {} });
  t.equal(denied.status, 403);
  await request('POST', '/v1/api-keys', { ...from, token: reader.token, body: {} });
  const more = { name: 'x', scopes: ['*'] };
  t.equal((await request('POST', '/v1/api-keys', { ...from, token: weak.token, body: more })).status, 403);
  for (let i = 0; i < 5; i++) await request('GET', ANYWHERE, { ...from, token: busy.token });
  for (let i = 0; i < 3; i++) await request('GET', ANYWHERE, { ...from, token: revoked.token });
  await request('GET', ANYWHERE, { ...from, token: expired.token });
  await request('GET', ANYWHERE, from);
  for (let i = 0; i < 4; i++) await request('GET', ANYWHERE, { ...from, token: createToken('live').token });
  await request('GET', ANYWHERE, { token: 'nonsense', remoteAddress: '203.0.113.10' });
  await auditQueue.flush(performance.now());
  const deniedTo = async (token: string) => {
    const { json } = await request('GET', '/v1/audit-events', { token });
    const events = json.data.filter(({ outcome }: { outcome: string }) => outcome === 'denied');
    return events.map(({ actor, action, object, ip, detail: { reason, count } }: any) =>
      [actor, action, object, ip, reason, count].join(' | '),
    );
  };
  t.same(await deniedTo(reader.token), [], 'not before its minute is over');
  await auditQueue.flush();

  const ip = from.remoteAddress;
  t.same(
    (await deniedTo(reader.token)).toSorted(),
    [
      `${reader.id} | access.denied | POST /v1/api-keys | ${ip} | This key lacks the scope keys:admin | 2`,
      `${weak.id} | access.denied | POST /v1/api-keys | ${ip} | Your own key lacks * | 1`,
      `${busy.id} | rate_limit.exceeded | api_key:${busy.id} | ${ip} | More than 2 requests in 60 s | 3`,
      `${revoked.id} | api_key.refused | api_key:${revoked.id} | ${ip} | revoked | 3`,
      `${expired.id} | api_key.refused | api_key:${expired.id} | ${ip} | expired | 1`,
    ].toSorted(),
  );
  t.same(
    (await deniedTo(operator.token)).toSorted(),
    [
      `anonymous | authentication.failed | address:${ip} | ${ip} | missing | 1`,
      `anonymous | authentication.failed | address:${ip} | ${ip} | unknown | 4`,
      `anonymous | authentication.failed | address:203.0.113.10 | 203.0.113.10 | malformed | 1`,
    ].toSorted(),
  );
  const { json } = await request('GET', '/v1/audit-events', { token: reader.token });
  const event = json.data.find(({ object }: { object: string }) => object === 'POST /v1/api-keys');
  t.ok(Date.parse(event.detail.since) <= Date.parse(event.occurredAt));
});

t.test('nobody fills the audit log by being refused', async (t) => {
  const url = await createDatabase(t);
  const { request, issueKey, services, logs } = await startTestApp(t, {
    DATABASE_URL: url,
    AUTH_FAILURES_PER_MINUTE: '5',
  });
  const { token } = await issueKey({ scopes: ['a:b'] });
  const count = (where: string) =>
    withClient(url, async (client) => {
      const { rows } = await client.query(
        `select count(*)::int as events, coalesce(sum((detail->>'count')::int), 0)::int as counted
         from audit_event where ${where}`,
      );
      return rows[0];
    });

  for (let i = 0; i < 1_000; i++) {
    const remoteAddress = `10.1.${i >> 8}.${i & 255}`;
    await request('GET', ANYWHERE, { remoteAddress });
    await request('GET', ANYWHERE, { remoteAddress, token: createToken('live').token.slice(1) });
  }
  await request('GET', '/v1/audit-events', { token });
  // Nobody can write them for a while: they wait, and are no more by then.
  await withClient(url, (client) => client.query('alter table audit_event rename to audit_event_away'));
  await services.auth.auditQueue.flush();
  t.match(logs.at(-1), { level: 'warn', message: 'audit events could not be written yet' });
  await withClient(url, (client) => client.query('alter table audit_event_away rename to audit_event'));
  await services.auth.auditQueue.close();

  t.same(await count(`outcome = 'denied' and tenant = 'operator'`), { events: 101, counted: 2_000 });
  t.same(
    await count(`tenant = 'acme' and action = 'access.denied'`),
    { events: 1, counted: 1 },
    'and hides nothing of a tenant',
  );
});

t.test('an act whose audit event cannot be written does not happen', async (t) => {
  const url = await createDatabase(t);
  const { request, issueKey } = await startTestApp(t, { DATABASE_URL: url });
  const { token } = await issueKey();
  const { id } = await issueKey();
  await withClient(url, (client) => client.query('alter table audit_event rename to audit_event_away'));

  const body = { name: 'x', scopes: ['*'] };
  t.equal((await request('POST', '/v1/api-keys', { token, body })).status, 500);
  t.equal((await request('DELETE', `/v1/api-keys/${id}`, { token })).status, 500);
  t.equal((await request('POST', `/v1/api-keys/${id}/rotate`, { token, body: {} })).status, 500);

  const { data } = (await request('GET', '/v1/api-keys', { token })).json;
  t.equal(data.length, 2);
  t.ok(data.every((key: { revokedAt: unknown }) => key.revokedAt === null));
});

t.test('an act on a key whose answer to COMMIT got lost is known to every process', async (t) => {
  const redis = await redisUrl(t);
  if (!redis) return;
  const url = await createDatabase(t);
  const proxy = await startTcpProxy(t, Number(new URL(url).port));
  const throughProxy = Object.assign(new URL(url), { hostname: '127.0.0.1', port: String(proxy.port) }).href;
  const env = { REDIS_URL: redis, EXPECTED_REPLICAS: '2', API_KEY_SECRET };
  const cut = await startTestApp(t, { DATABASE_URL: throughProxy, ...env });
  const other = await startTestApp(t, { DATABASE_URL: url, ...env });
  const { token: admin } = await cut.issueKey();
  const hears = async ({ request }: TestApp) => (await request('GET', '/health')).json.redis === 'connected';
  for (const app of [cut, other]) await until('Redis is there', () => hears(app));

  for (const [act, status] of [
    [(id: string) => cut.request('DELETE', `/v1/api-keys/${id}`, { token: admin }), 401],
    [(id: string) => cut.request('POST', `/v1/api-keys/${id}/rotate`, { token: admin, body: {} }), 401],
    [(id: string) => change(cut.request, id, { token: admin, body: { scopes: ['a:b'] } }), 403],
  ] as const) {
    const { id, token } = await cut.issueKey();
    const path = '/v1/audit-events';
    t.equal((await other.request('GET', path, { token })).status, 200);
    proxy.loseAnswerTo('commit\0');
    t.match(await act(id), { status: 504, json: { code: 'timeout' } });
    t.equal((await other.request('GET', path, { token })).status, status);
  }
});

t.test('an act on a key is done and answered so while Redis is away', async (t) => {
  const redis = await startRedis(t);
  if (!redis) return;
  const { request, issueKey } = await startTestApp(t, { REDIS_URL: redis.url });
  const [{ token: admin }, { id }, other] = [await issueKey(), await issueKey(), await issueKey()];
  const isConnected = async () => (await request('GET', '/health')).json.redis === 'connected';
  await until('Redis is there', isConnected);
  const rename = (name: string) => change(request, id, { token: admin, body: { name } });
  const told = await rename('with Redis');
  t.match([told.status, told.headers['propagation-delay']], [200, undefined]);

  await redis.stop();
  for (const name of ['once', 'again']) {
    const { status, json, headers } = await rename(name);
    t.match([status, json.name, headers['propagation-delay']], [200, name, '5'], 'a retry meets no 412');
  }
  const rotated = await request('POST', `/v1/api-keys/${id}/rotate`, { token: admin, body: {} });
  t.match([rotated.status, rotated.headers['propagation-delay']], [201, '5']);
  const revoked = await request('DELETE', `/v1/api-keys/${other.id}`, { token: admin });
  t.match([revoked.status, revoked.headers['propagation-delay']], [204, '5']);
  const created = await request('POST', '/v1/api-keys', {
    token: admin,
    body: { name: 'x', scopes: ['a:b'] },
  });
  t.match([created.status, created.headers['propagation-delay']], [201, undefined], 'nobody knew it before');

  await redis.start();
  await until('Redis is back', isConnected);
  await until('all are told', async () => {
    const { status, headers } = await request('DELETE', `/v1/api-keys/${other.id}`, { token: admin });
    return status === 204 && headers['propagation-delay'] === undefined;
  });
});

t.test('API_KEYS are stored once, and a revoked one stays revoked', async (t) => {
  const DATABASE_URL = await createDatabase(t);
  const [first, second] = [createToken('live'), createToken('live')];
  const env = { DATABASE_URL, API_KEYS: `${first.token},globex:${second.token}` };
  const log = pino({ level: 'silent' });
  const start = async (): Promise<TestApp> => {
    const app = await startTestApp(t, env);
    await app.request('GET', ANYWHERE, { token: second.token });
    await seedKeys(app.config.auth.bootstrapKeys, app.services.admin, log);
    return app;
  };

  const before = await start();
  const tenants = await withClient(DATABASE_URL, async (client) => {
    const { rows } = await client.query('select id, tenant, scopes from api_key order by tenant');
    return rows;
  });
  t.same(tenants, [
    { id: first.id, tenant: 'default', scopes: ['*'] },
    { id: second.id, tenant: 'globex', scopes: ['*'] },
  ]);
  for (const { token } of [first, second]) {
    const { json } = await before.request('GET', '/v1/api-keys', { token });
    t.equal(json.data?.length, 1, 'also when it was tried too early');
  }
  await before.services.admin.revoke('default', first.id, ACTOR);

  const after = await start();
  t.equal((await after.request('GET', ANYWHERE, { token: first.token })).status, 401);
  const { json } = await after.request('GET', '/v1/audit-events', { token: second.token });
  t.equal(json.data.length, 1, 'stored by the first start only');
  t.match(json.data[0], { actor: 'env:API_KEYS', action: 'api_key.created', detail: { seeded: true } });
  t.notMatch(JSON.stringify([...before.logs, ...after.logs]), first.token.slice(-36));
});

t.test('npm run api-key', { jobs: 3 }, async (t) => {
  const DATABASE_URL = await createDatabase(t);
  const { request, services } = await startTestApp(t, { DATABASE_URL });

  t.test('creates, lists, rotates and revokes', async (t) => {
    const created = await run(['create', '--tenant', 'acme', '--scopes', '*', '--limit', '70'], {
      DATABASE_URL,
    });
    t.equal(created.code, 0, created.stderr);
    const [, token = ''] = /^API key: (hp_\S+)$/m.exec(created.stdout) ?? [];
    t.match(token, TOKEN);
    const answer = await request('GET', ANYWHERE, { token });
    t.equal(answer.status, LET_IN);
    t.match(answer.headers['ratelimit-policy'], /q=70;/);

    const id = parseToken(token)?.id ?? '';
    const rotated = await run(['rotate', id, '--overlap', '60', '--json'], { DATABASE_URL });
    const successor = JSON.parse(rotated.stdout);
    t.match(successor, { tenant: 'acme', limitPerMinute: 70, scopes: ['*'], token: TOKEN });
    t.equal((await request('GET', ANYWHERE, { token })).status, LET_IN);
    t.equal((await request('GET', ANYWHERE, { token: successor.token })).status, LET_IN);

    const revoked = await run(['revoke', successor.id], { DATABASE_URL });
    t.equal(revoked.stdout, `Revoked: ${successor.id}\n`);
    // Without Redis a process forgets by itself; with it, it is told.
    services.auth.keys.forget(successor.id);
    t.equal((await request('GET', ANYWHERE, { token: successor.token })).status, 401);

    const listed = await run(['list', '--tenant', 'acme'], { DATABASE_URL });
    t.match(listed.stdout, /^ID +TENANT +STATE +ENDS IN +LIMIT +LAST USED +SCOPES +NAME$/m);
    t.match(listed.stdout, new RegExp(`^${id} +acme +rotated +…\\w{4} +70 `, 'm'));
    t.match(listed.stdout, new RegExp(`^${successor.id} +acme +revoked `, 'm'));
    t.notMatch(listed.stdout, token.slice(-36, -17));
    const asJson = JSON.parse((await run(['list', '--json'], { DATABASE_URL })).stdout);
    t.match(
      asJson.find((key: { id: string }) => key.id === id),
      { tenant: 'acme', replacedBy: successor.id },
    );
    const expires = new Date(Date.now() + 60_000).toISOString();
    const words = ['create', '--tenant', 'globex', '--scopes', 'a:b,c:d', '--expires', expires, '--json'];
    const other = JSON.parse(await runApiKey([...words, '--name', 'CI'], environment({ DATABASE_URL })));
    t.match(other, { expiresAt: expires, name: 'CI', scopes: ['a:b', 'c:d'], limitPerMinute: null });
    t.equal((await request('GET', ANYWHERE, { token: other.token })).status, LET_IN);

    const events = await withClient(DATABASE_URL, async (client) => {
      const { rows } = await client.query(
        `select action, actor from audit_event where tenant = 'acme' order by id`,
      );
      return rows;
    });
    t.same(
      events,
      ['created', 'rotated', 'revoked'].map((act) => ({
        action: `api_key.${act}`,
        actor: 'command:api-key',
      })),
    );
  });

  t.test('tells running processes of a revocation', async (t) => {
    const REDIS_URL = await redisUrl(t);
    if (!REDIS_URL) return;
    const url = await createDatabase(t);
    const app = await startTestApp(t, { DATABASE_URL: url, REDIS_URL });
    const { id, token } = await app.issueKey();
    await app.request('GET', ANYWHERE, { token });
    let answers = 0;
    let revoked = false;
    const load = (async () => {
      while (!revoked) {
        await app.request('GET', ANYWHERE, { token });
        answers++;
        await delay(20);
      }
    })();

    const { code } = await run(['revoke', id], { DATABASE_URL: url, REDIS_URL });
    revoked = true;

    t.equal((await app.request('GET', ANYWHERE, { token })).status, 401);
    t.equal(code, 0);
    await load;
    t.ok(answers > 5);
  });

  t.test('says in one message what is wrong, and nothing secret', async (t) => {
    const secret = 'pa55word-in-the-url';
    const url = DATABASE_URL.replace(/\/\/[^@]*@/, `//somebody:${secret}@`);
    const unreachable = `postgres://somebody:${secret}@127.0.0.1:1/x`;
    const [{ id: existing }] = await withClient(DATABASE_URL, async (client) => {
      await client.query(
        `insert into api_key (id, tenant, name, scopes, digest, hint, revoked_at)
         values ('revoked00001', 'acme', '', '{}', decode(repeat('00', 32), 'hex'), 'abcd', now())`,
      );
      return [{ id: 'revoked00001' }];
    });

    for (const [args, message, env] of [
      [['create', '--frob'], /^Unknown option '--frob'\n\nUsage: npm run api-key/],
      [['create', '--tenant'], /^Option '--tenant <value>' argument missing\n\nUsage/],
      [['frob'], /^Unknown command "frob"\n\nUsage/],
      [['rotate'], /^rotate needs the id of a key/],
      [['revoke'], /^revoke needs the id of a key/],
      [['revoke', 'a', 'b'], /^Too many arguments: b\n\nUsage/],
      [['list', 'a'], /^Too many arguments: a\n\nUsage/],
      [['create', 'acme', '--scopes', '*'], /^Too many arguments: acme\n\nUsage/],
      [['create', '--scopes', '*'], /^--tenant takes/],
      [['create', '--tenant', 'ACME', '--scopes', '*'], /^--tenant takes/],
      [['create', '--tenant', 'acme'], /^--scopes takes/],
      [['create', '--tenant', 'acme', '--scopes', 'audit'], /^--scopes takes/],
      [
        ['create', '--tenant', 'acme', '--scopes', '*', '--limit', '0'],
        /^--limit takes a whole number from 1/,
      ],
      [['create', '--tenant', 'acme', '--scopes', '*', '--limit', '1e3'], /^--limit takes/],
      [['create', '--tenant', 'acme', '--scopes', '*', '--expires', '2001-01-01'], /^--expires takes/],
      [['create', '--tenant', 'acme', '--scopes', '*', '--expires', 'soon'], /^--expires takes/],
      [['rotate', 'x', '--overlap', '-1'], /--overlap/],
      [['rotate', 'x', '--overlap', '1.5'], /^--overlap takes a whole number from 0/],
      [['rotate', 'unknown'], /^There is no key with the id unknown/],
      [['revoke', 'unknown'], /^There is no key with the id unknown/],
      [['rotate', existing], /^This key is revoked or expired/],
      [['list'], /^Bad configuration: 1 problem\n\nDATABASE_URL/, { DATABASE_URL: '' }],
      [['list'], /^The service is temporarily unavailable: .*ECONNREFUSED/, { DATABASE_URL: unreachable }],
    ] as [string[], RegExp, Record<string, string>?][]) {
      const error = await runApiKey(args, environment({ DATABASE_URL, ...env })).then(
        () => undefined,
        (reason: Error & { cause?: Error }) => reason,
      );
      const text = error && (error.cause ? `${error.message}: ${error.cause.message}` : error.message);
      t.match(text, message, args.join(' '));
      t.notMatch(text, secret);
    }

    for (const [args, env] of [
      [['create', '--frob'], { DATABASE_URL: url }],
      [['list'], {}],
      [['list'], { DATABASE_URL: unreachable }],
    ] as [string[], Record<string, string>][]) {
      const { code, stdout, stderr } = await run(args, env);
      t.equal(code, 1, args.join(' '));
      t.equal(stdout, '');
      t.notMatch(stderr, /^\s+at /m, 'no stack');
      t.notMatch(stderr, secret);
    }
    t.match(await runApiKey(['--help'], {}), /^Usage: /);
  });
});

/** A change by somebody who has just read the key, as far as he may. */
async function change(
  request: TestApp['request'],
  id: string,
  options: NonNullable<Parameters<TestApp['request']>[2]>,
) {
  const { etag } = (await request('GET', `/v1/api-keys/${id}`, options)).headers;
  const headers = { ...options.headers, 'if-match': String(etag) };
  return request('PATCH', `/v1/api-keys/${id}`, { ...options, headers });
}

function environment(env: Record<string, string>): Record<string, string> {
  return { API_KEY_SECRET, POOL_WAIT_TIMEOUT_MS: '1000', ...env };
}

function run(args: string[], env: Record<string, string>): Promise<CommandResult> {
  return runCommand('cli/api-key', args, environment(env));
}

/** Every row of every table as text. */
async function dumpTables(url: string): Promise<string> {
  return withClient(url, async (client) => {
    const tables = await client.query(
      `select table_name from information_schema.tables where table_schema = 'public'`,
    );
    const rows: string[] = [];
    for (const { table_name } of tables.rows) {
      const found = await client.query(`select to_jsonb(each)::text as row from ${table_name} each`);
      rows.push(...found.rows.map(({ row }) => `${table_name} ${row}`));
    }
    return rows.join('\n');
  });
}
