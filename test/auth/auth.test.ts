import rateLimit from '@fastify/rate-limit';
import { fastify, type FastifyRequest } from 'fastify';
import crypto from 'node:crypto';
import { syncBuiltinESMExports } from 'node:module';
import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { crc32 } from 'node:zlib';
import { Redis } from 'ioredis';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { createFailedAttempts } from '../../src/auth/failed-attempts.ts';
import { auth } from '../../src/auth/plugin.ts';
import { createToken, parseToken } from '../../src/auth/token.ts';
import { KEY_MEMORY_MS } from '../../src/auth/key-cache.ts';
import { startKeyUsage } from '../../src/auth/usage.ts';
import { startTestApp, type TestApp } from '../support/app.ts';
import { startPgBouncer } from '../support/pgbouncer.ts';
import { createDatabase, startPostgres, withClient } from '../support/postgres.ts';
import { redisUrl, startRedis } from '../support/redis.ts';
import { startTcpProxy } from '../support/tcp-proxy.ts';
import { until } from '../support/until.ts';

const QUERIES = 'db_query_latency_seconds_count{target="primary"}';
/** Needs a key and any scope, costs nothing: an unknown URL. A key that is let in gets 404. */
const ANYWHERE = '/v1/nowhere';
const LET_IN = 404;
const LENIENT = { AUTH_FAILURES_PER_MINUTE: '1000000' };

const unhandled: unknown[] = [];
process.on('unhandledRejection', (error) => unhandled.push(error));

t.test('a key is hp_<env>_<id>_<secret><crc> with 178 bits of secret, and no two are alike', async (t) => {
  const ids = new Set<string>();
  const tokens = new Set<string>();
  let wellFormed = 0;
  for (let i = 0; i < 100_000; i++) {
    const { id, token } = createToken('live');
    ids.add(id);
    tokens.add(token);
    if (/^hp_live_[0-9A-Za-z]{12}_[0-9A-Za-z]{36}$/.test(token) && parseToken(token)?.id === id) wellFormed++;
  }

  t.equal(wellFormed, 100_000);
  t.equal(ids.size, 100_000);
  t.equal(tokens.size, 100_000);
  t.ok(30 * Math.log2(62) > 178);
});

t.test('a key with one wrong character is refused without a query', async (t) => {
  const { request, issueKey, metric } = await startTestApp(t, LENIENT);
  const { token } = await issueKey();
  const queriesBefore = await metric(QUERIES);

  const alphabet = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_';
  const mutants = token.split('').flatMap((character, at) =>
    alphabet
      .split('')
      .filter((other) => other !== character)
      .map((other) => token.slice(0, at) + other + token.slice(at + 1)),
  );
  t.same(
    mutants.filter((mutant) => parseToken(mutant) !== undefined),
    [],
    `${mutants.length} mutants`,
  );
  for (const mutant of mutants.filter((_, index) => index % 40 === 0)) {
    t.equal((await request('GET', ANYWHERE, { token: mutant })).status, 401);
  }

  t.equal(await metric(QUERIES), queriesBefore);
  t.equal((await request('GET', ANYWHERE, { token })).status, LET_IN, 'the key itself is good');
  t.equal(await metric(QUERIES), queriesBefore + 1, 'and a look-up is counted');
});

t.test('a key of another environment is refused without a query', async (t) => {
  const { request, services, metric } = await startTestApp(t, { API_KEY_ENVIRONMENT: 'live' });
  const { id, token } = createToken('test');
  const wanted = { tenant: 'acme', name: 'test', scopes: ['*'], limitPerMinute: null, expiresAt: null };
  await services.admin.seed(wanted, id, token, { actor: 'test', requestId: null, ip: null });
  const queriesBefore = await metric(QUERIES);

  t.equal((await request('GET', ANYWHERE, { token })).status, 401);

  t.equal(await metric(QUERIES), queriesBefore);
});

t.test('missing, malformed, unknown, revoked and expired keys get one and the same 401', async (t) => {
  const { request, issueKey, services, metric } = await startTestApp(t);
  const revoked = await issueKey();
  await services.admin.revoke('acme', revoked.id, { actor: 'test', requestId: null, ip: null });
  const expired = await issueKey({ expiresAt: new Date(Date.now() - 1000).toISOString() });
  const good = await issueKey();
  const forged = createToken('live').token;
  const wrongSecret = forge(good.id);
  t.match(parseToken(wrongSecret), { id: good.id }, 'well-formed, with the id of a good key');

  const answers = {
    missing: await request('GET', '/v1/audit-events'),
    malformed: await request('GET', '/v1/audit-events', { token: 'hp_live_nonsense' }),
    unknown: await request('GET', '/v1/audit-events', { token: forged }),
    wrongSecret: await request('GET', '/v1/audit-events', { token: wrongSecret }),
    revoked: await request('GET', '/v1/audit-events', { token: revoked.token }),
    expired: await request('GET', '/v1/audit-events', { token: expired.token }),
    basic: await request('GET', '/v1/audit-events', { headers: { authorization: 'Basic aHA6aHA=' } }),
  };

  for (const [name, { status, json, headers }] of Object.entries(answers)) {
    t.equal(status, 401, name);
    t.equal(headers['www-authenticate'], 'Bearer realm="api"', name);
    t.equal(headers['content-type'], 'application/problem+json; charset=utf-8', name);
    t.equal(headers['cache-control'], 'no-store', name);
    t.equal(json.instance, headers['x-request-id'], name);
    t.same({ ...json, instance: '' }, { ...answers.missing.json, instance: '' }, name);
    const { 'x-request-id': _, date: __, ...rest } = headers;
    const { 'x-request-id': ___, date: ____, ...wanted } = answers.missing.headers;
    t.same(rest, wanted, `${name}: headers`);
  }
  for (const reason of ['missing', 'unknown', 'revoked', 'expired']) {
    t.ok((await metric(`auth_failures_total{reason="${reason}"}`)) >= 1, `${reason} is counted`);
  }
  t.equal(await metric('revoked_key_attempts_total'), 1);
});

t.test('the settings of the database decide about no key', async (t) => {
  const OTHERS = {
    timezone: 'Asia/Kathmandu',
    search_path: '',
    bytea_output: 'escape',
    intervalstyle: 'iso_8601',
    extra_float_digits: '-15',
    standard_conforming_strings: 'off',
    default_transaction_isolation: 'serializable',
    client_encoding: 'LATIN1',
    statement_timeout: '0',
  };
  const FORMATS = ['German', 'SQL, DMY', 'Postgres, MDY', 'ISO, DMY'];
  const cases = FORMATS.flatMap((datestyle) => {
    const settings: [string, string][] = Object.entries({ ...OTHERS, datestyle });
    return ['the database', 'the role', 'a pooled connection'].map((place) => ({
      place,
      datestyle,
      settings,
    }));
  });

  for (const { place, datestyle, settings } of cases) {
    await t.test(`${datestyle} of ${place}`, async (t) => {
      const url = await createDatabase(t);
      const database = new URL(url).pathname.slice(1);
      const role = `role_${database}`;
      const env: Record<string, string> = { DATABASE_URL: url };
      const before = await startTestApp(t, env);
      const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
      const name = 'Zo\u00eb \u20ac';
      const good = await before.issueKey({ expiresAt, name });
      const revoked = await before.issueKey();
      await before.services.admin.revoke('acme', revoked.id, { actor: 'test', requestId: null, ip: null });
      const expired = await before.issueKey({ expiresAt: new Date(Date.now() - 1000).toISOString() });

      if (place === 'a pooled connection') {
        const pooled = await startPgBouncer(t, url);
        if (pooled === undefined) return;
        Object.assign(env, { DATABASE_URL: pooled, DATABASE_PGBOUNCER: 'true' });
        await spoilConnections(pooled, settings);
      } else {
        const whom = place === 'the role' ? `role ${role}` : `database ${database}`;
        await withClient(url, async (client) => {
          await client.query(`create role ${role} superuser login password 'p'`);
          for (const [setting, value] of settings)
            await client.query(`alter ${whom} set ${setting} = ${client.escapeLiteral(value)}`);
        });
        t.teardown(() => withClient(url, (client) => client.query(`drop role ${role}`)));
        const asRole = new URL(url);
        if (place === 'the role') Object.assign(asRole, { username: role, password: 'p' });
        env.DATABASE_URL = asRole.href;
      }
      const service = await startTestApp(t, env);

      const list = await service.request('GET', '/v1/api-keys', { token: good.token });
      t.equal(list.status, 200, list.text);
      const read = list.json.data?.find(({ id }: { id: string }) => id === good.id);
      t.match(read, { name, expiresAt });
      t.equal((await service.request('GET', '/v1/audit-events', { token: good.token })).status, 200);
      t.equal((await service.request('GET', ANYWHERE, { token: revoked.token })).status, 401, 'revoked');
      t.equal((await service.request('GET', ANYWHERE, { token: expired.token })).status, 401, 'expired');
      const body = { name, scopes: ['*'], expiresAt };
      const made = await service.request('POST', '/v1/api-keys', { token: good.token, body });
      t.equal(made.status, 201, made.text);
      t.equal((await service.request('GET', '/health/ready')).status, 200);
      for (const { close } of service.services.closers) await close();
    });
  }
});

/** As another client of a pool of two leaves them. */
async function spoilConnections(url: string, settings: [string, string][]): Promise<void> {
  await withClient(url, (first) =>
    withClient(url, async (second) => {
      const both = [first, second];
      await Promise.all(both.map((client) => client.query('begin')));
      for (const [setting, value] of settings)
        await Promise.all(both.map((c) => c.query('select set_config($1, $2, false)', [setting, value])));
      await Promise.all(both.map((client) => client.query('commit')));
    }),
  );
}

t.test('a refused key costs as much work as a good one, whether its id exists or not', async (t) => {
  const { issueKey, services } = await startTestApp(t);
  const { id, token } = await issueKey();
  const calls: string[] = [];
  for (const name of ['createHmac', 'timingSafeEqual'] as const) {
    const original = crypto[name];
    t.teardown(() => {
      Object.assign(crypto, { [name]: original });
      syncBuiltinESMExports();
    });
    const counted = (...args: unknown[]) => {
      calls.push(name);
      return (original as (...args: unknown[]) => unknown)(...args);
    };
    Object.assign(crypto, { [name]: counted });
  }
  syncBuiltinESMExports();

  for (const each of [token, forge(id), createToken('live').token]) {
    calls.length = 0;
    await services.auth.keys.find(each);
    t.same(calls, ['createHmac', 'timingSafeEqual']);
  }
});

t.test('a key is taken from either header, in any case of "Bearer", and nothing unclear is', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token } = await issueKey();
  const { token: other } = await issueKey();
  const statusWith = async (headers: Record<string, string>) =>
    (await request('GET', ANYWHERE, { headers })).status;

  t.equal(await statusWith({ authorization: `Bearer ${token}` }), LET_IN);
  t.equal(await statusWith({ authorization: `bearer ${token}` }), LET_IN);
  t.equal(await statusWith({ 'x-api-key': token }), LET_IN);
  t.equal(await statusWith({ authorization: `Bearer ${token}`, 'x-api-key': token }), LET_IN);

  t.equal(await statusWith({ authorization: `Bearer ${token}`, 'x-api-key': other }), 401);
  t.equal(await statusWith({ authorization: 'Basic aHA6aHA=', 'x-api-key': token }), 401);
  t.equal(await statusWith({ authorization: token }), 401);
  t.equal(await statusWith({ authorization: `Basic ${token}` }), 401);
  t.equal(await statusWith({ authorization: 'Bearer' }), 401);
  t.equal(await statusWith({ authorization: `Bearer ${token} ${token}` }), 401);
  t.equal(await statusWith({ 'x-api-key': '' }), 401);
  t.equal(await statusWith({ 'x-api-key': `${token}, ${token}` }), 401);
});

t.test('a key in the URL is refused, and is in no log', async (t) => {
  const { request, issueKey, logs } = await startTestApp(t);
  const { token } = await issueKey();

  t.equal((await request('GET', `/v1/audit-events?api_key=${token}`)).status, 400);
  t.equal((await request('GET', `/v1/audit-events?api_key=${token}`, { token })).status, 400);

  t.notMatch(JSON.stringify(logs), token.slice(-36, -12));
});

t.test('a key without the scope of a route gets 403, and * is every scope', async (t) => {
  const { app, request, issueKey, metric } = await startTestApp(t);
  const { token: reader } = await issueKey({ scopes: ['audit:read'] });
  const { token: nobody } = await issueKey({ scopes: [] });
  const { token: everybody } = await issueKey({ scopes: ['*'] });

  t.equal((await request('GET', '/v1/audit-events', { token: reader })).status, 200);
  const head = async (token: string) => {
    const headers = { authorization: `Bearer ${token}` };
    return (await app.inject({ method: 'HEAD', url: '/v1/audit-events', headers })).statusCode;
  };
  t.equal(await head(reader), 200);
  t.equal(await head(nobody), 403);
  for (const [method, url, token] of [
    ['POST', '/v1/api-keys', reader],
    ['GET', '/v1/api-keys', reader],
    ['DELETE', '/v1/api-keys/1', reader],
    ['GET', '/v1/audit-events', nobody],
  ] as const) {
    const { status, json } = await request(method, url, { token });
    t.equal(status, 403, `${method} ${url}`);
    t.match(json, { code: 'forbidden', detail: /lacks the scope [a-z]+:[a-z]+$/ });
  }
  t.equal((await request('GET', '/v1/audit-events', { token: everybody })).status, 200);
  t.equal(await metric('auth_failures_total{reason="scope"}'), 5);
});

t.test('a route that declares no scope does not start', async (t) => {
  const { services, metrics } = await startTestApp(t);
  const app = fastify();
  t.teardown(() => app.close());
  await app.register(auth, { ...services.auth, metrics });

  t.throws(() => app.get('/open', () => 'x'), /GET \/open declares no scope/);
  t.doesNotThrow(() => app.get('/closed', { config: { scope: 'a:b' } }, () => 'x'));
});

t.test('a hot key costs no query, and its last use one write a minute', async (t) => {
  const url = await createDatabase(t);
  const { request, issueKey, services, metric } = await startTestApp(t, { DATABASE_URL: url });
  const { id, token } = await issueKey();
  await request('GET', ANYWHERE, { token });
  const before = { queries: await metric(QUERIES), minute: Math.floor(Date.now() / 60_000) };

  for (let i = 0; i < 20; i++) {
    const answers = await Promise.all(Array.from({ length: 100 }, () => request('GET', ANYWHERE, { token })));
    if (answers.some(({ status }) => status !== LET_IN)) t.fail('a request was refused');
    await services.auth.usage.flush();
  }

  const queries = (await metric(QUERIES)) - before.queries;
  // The memory of a key ends once in five seconds, and the minute may change.
  const minutes = Math.floor(Date.now() / 60_000) - before.minute;
  t.ok(queries <= 2 + 2 * minutes, `2000 requests cost ${queries} queries`);
  await services.auth.usage.close();
  const [row] = await withClient(url, async (client) => {
    const { rows } = await client.query('select last_used_at from api_key where id = $1', [id]);
    return rows;
  });
  t.equal(row.last_used_at % 60_000, 0, 'to the minute');
  t.ok(Date.now() - row.last_used_at < 125_000);
});

t.test('what is still to be written of the last use is written at the end', async (t) => {
  const url = await createDatabase(t);
  const { request, issueKey, services } = await startTestApp(t, { DATABASE_URL: url });
  const { id, token } = await issueKey();
  const lastUse = () =>
    withClient(url, async (client) => {
      const { rows } = await client.query('select last_used_at from api_key where id = $1', [id]);
      return rows[0].last_used_at;
    });

  await request('GET', ANYWHERE, { token });
  t.equal(await lastUse(), null);
  for (const { name, close } of services.closers) if (name === 'last use of keys') await close();
  t.ok(await lastUse());
});

t.test('processes that write the last use of the same keys at once do not deadlock', async (t) => {
  const url = await createDatabase(t);
  const ids = Array.from({ length: 2_000 }, (_, index) => `key${index}`);
  await withClient(url, async (client) => {
    // The plan that locks the rows in the order in which they are given.
    for (const plan of ['enable_hashjoin', 'enable_mergejoin', 'enable_seqscan']) {
      await client.query(`alter database ${new URL(url).pathname.slice(1)} set ${plan} to off`);
    }
    // Who waits for a lock that long is told by lock_timeout before, and that is not tried again.
    await client.query(`alter database ${new URL(url).pathname.slice(1)} set deadlock_timeout to '20s'`);
    await client.query(
      `insert into api_key (id, tenant, name, scopes, digest, hint)
       select id, 'acme', '', '{}', decode(repeat('00', 32), 'hex'), '' from unnest($1::text[]) id`,
      [ids],
    );
  });
  const { services } = await startTestApp(t, { DATABASE_URL: url });
  const lines: string[] = [];
  const log = pino({}, { write: (line: string) => void lines.push(line) });

  await Promise.all(
    Array.from({ length: 12 }, async (_, number) => {
      const usage = startKeyUsage(services.db, log);
      for (const id of number % 2 ? ids : ids.toReversed()) usage.mark(id);
      await usage.close();
    }),
  );

  t.same(lines, []);
  const { rows } = await withClient(url, (client) =>
    client.query('select count(*)::int as used from api_key where last_used_at is not null'),
  );
  t.equal(rows[0].used, ids.length);
});

t.test('a hot key ends at the moment of its expiry', async (t) => {
  const { request, issueKey, metric } = await startTestApp(t);
  const endsAt = Date.now() + 600;
  const { token } = await issueKey({ expiresAt: new Date(endsAt).toISOString() });

  while (Date.now() < endsAt - 50) {
    t.equal((await request('GET', ANYWHERE, { token })).status, LET_IN);
    await delay(50);
  }
  const queries = await metric(QUERIES);
  await delay(endsAt - Date.now() + 1);

  t.equal((await request('GET', ANYWHERE, { token })).status, 401);
  t.equal(await metric(QUERIES), queries, 'from memory');
});

t.test('an answer of Postgres that is older than a revocation is not remembered', async (t) => {
  const url = await createDatabase(t);
  const { request, issueKey, services } = await startTestApp(t, { DATABASE_URL: url });
  const { id, token } = await issueKey();
  await withClient(url, async (client) => {
    await client.query('alter table api_key rename to api_key_stored');
    // Each look-up takes its snapshot, then half a second.
    await client.query(
      'create view api_key as select stored.* from api_key_stored stored, lateral (select pg_sleep(0.5) where stored.id is not null) s',
    );

    const overtaken = request('GET', ANYWHERE, { token });
    await delay(150);
    await client.query('update api_key_stored set revoked_at = now() where id = $1', [id]);
    services.auth.keys.forget(id);
    const after = request('GET', ANYWHERE, { token });

    t.equal((await overtaken).status, LET_IN, 'it came before the revocation');
    t.equal((await request('GET', ANYWHERE, { token })).status, 401, 'the late answer was not kept');
    t.equal((await after).status, 401, 'nor shared');
    t.equal((await request('GET', ANYWHERE, { token })).status, 401);
  });
});

t.test('an extended expiry counts from the next request on', async (t) => {
  const { request, issueKey, services } = await startTestApp(t);
  const { id, token } = await issueKey({ expiresAt: new Date(Date.now() - 1000).toISOString() });
  t.equal((await request('GET', ANYWHERE, { token })).status, 401);

  const actor = { actor: 'test', requestId: null, ip: null };
  await services.admin.change('acme', id, { expiresAt: new Date(Date.now() + 60_000).toISOString() }, actor);

  t.equal((await request('GET', ANYWHERE, { token })).status, LET_IN);
});

t.test('many requests of one cold key at once are one query and none is refused', async (t) => {
  const { request, issueKey, metric } = await startTestApp(t, { AUTH_FAILURES_PER_MINUTE: '5' });
  const { token } = await issueKey();
  const queriesBefore = await metric(QUERIES);

  const answers = await Promise.all(Array.from({ length: 200 }, () => request('GET', ANYWHERE, { token })));

  t.same([...new Set(answers.map(({ status }) => status))], [LET_IN]);
  t.equal(await metric(QUERIES), queriesBefore + 1);
});

t.test('many cold keys at once are few queries, and each is judged by itself', async (t) => {
  const { request, issueKey, metric } = await startTestApp(t, LENIENT);
  const tokens: string[] = [];
  for (let i = 0; i < 20; i++) tokens.push((await issueKey({ tenant: `tenant-${i}` })).token);
  for (let i = 0; i < 10; i++) tokens.push(createToken('live').token);
  const queriesBefore = await metric(QUERIES);

  const answers = await Promise.all(tokens.map((token) => request('GET', ANYWHERE, { token })));

  t.same([...new Set(answers.slice(0, 20).map(({ status }) => status))], [404]);
  t.same([...new Set(answers.slice(20).map(({ status }) => status))], [401]);
  const queries = (await metric(QUERIES)) - queriesBefore;
  t.ok(queries > 0 && queries <= 10, `${queries} queries of 30 keys`);
});

t.test('keys that are looked up at the same time are no failed attempts', async (t) => {
  const url = await createDatabase(t);
  const { request, issueKey } = await startTestApp(t, { DATABASE_URL: url, AUTH_FAILURES_PER_MINUTE: '5' });
  const tokens: string[] = [];
  for (let i = 0; i < 100; i++) tokens.push((await issueKey()).token);
  await slowDownLookUps(url, 0.05);

  const answers = await Promise.all(tokens.map((token) => request('GET', ANYWHERE, { token })));

  t.same(countBy(answers.map(({ status }) => status)), { [LET_IN]: 100 });
  for (let i = 0; i < 5; i++) t.equal((await request('GET', ANYWHERE)).status, 401, 'nor count as some');
});

t.test('a valid key that was never seen works behind an address that guesses', async (t) => {
  const url = await createDatabase(t);
  const { request, issueKey, metric } = await startTestApp(t, { DATABASE_URL: url });
  const tokens: string[] = [];
  for (let i = 0; i < 20; i++) tokens.push((await issueKey()).token);
  const { id: known } = await issueKey();
  for (let i = 0; i < 60; i++) t.equal((await request('GET', ANYWHERE)).status, 401);
  t.equal((await request('GET', ANYWHERE)).status, 429);
  await slowDownLookUps(url, 0.05);
  const queriesBefore = await metric(QUERIES);
  const startedAt = performance.now();

  const guesses = Array.from({ length: 800 }, (_, index) =>
    request('GET', ANYWHERE, { token: index % 2 ? forge(known, index) : createToken('live').token }),
  );
  const answers = await Promise.all(tokens.map((token) => request('GET', ANYWHERE, { token })));
  const guessed = await Promise.all(guesses);

  t.same(countBy(answers.map(({ status }) => status)), { [LET_IN]: 20 });
  t.same(countBy(guessed.map(({ status }) => status)), { 429: 800 });
  const queries = (await metric(QUERIES)) - queriesBefore;
  const most = 1 + Math.ceil((performance.now() - startedAt) / 100);
  t.ok(queries <= most, `${queries} queries for 800 guesses, at most one in 100 ms`);
});

t.test('so many look-ups wait, one address in turn with the other, and no more', async (t) => {
  const app = fastify();
  await app.register(rateLimit, { global: false, max: 1, timeWindow: 60_000 });
  const { lookUp, fail, waitSeconds } = createFailedAttempts(app.createRateLimit());
  const from = (ip: string) => ({ ip, routeOptions: { config: {} } }) as FastifyRequest;
  const order: string[] = [];
  const look = (ip: string) => lookUp(from(ip), async () => order.push(ip));
  t.equal(await fail(from('10.0.0.1')), 0);
  t.ok((await fail(from('10.0.0.1'))) > 0);
  await fail(from('10.0.0.2'));

  const flood = Array.from({ length: 1_001 }, () => look('10.0.0.1'));
  const other = look('10.0.0.2');

  t.equal(await flood[1_000], undefined, 'the queue of one address is full');
  t.ok((await waitSeconds(from('10.0.0.1'))) > 50);
  t.equal(await other, 2, 'the other one is not behind all of it');
  await Promise.all(flood);
  t.equal(order.length, 1_001);
  t.equal(await look('10.0.0.3'), 1_002, 'who has not failed does not wait');
});

t.test('guesses from one address are 429, whether they come one by one or at once', async (t) => {
  const { request, metric } = await startTestApp(t, { AUTH_FAILURES_PER_MINUTE: '10' });
  const guess = (remoteAddress: string) =>
    request('GET', ANYWHERE, { token: createToken('live').token, remoteAddress });
  const flood = async (address: string) =>
    (await Promise.all(Array.from({ length: 40 }, () => guess(address)))).map(({ status }) => status);
  const queriesBefore = await metric(QUERIES);

  const statuses = await flood('10.0.0.1');

  t.equal(statuses.filter((status) => status === 401).length, 10, 'in parallel as well');
  t.equal(statuses.filter((status) => status === 429).length, 30);
  const queries = await metric(QUERIES);
  t.ok(queries > queriesBefore && queries <= queriesBefore + 10, `${queries - queriesBefore} queries`);
  const refused = await guess('10.0.0.1');
  t.equal(refused.status, 429);
  t.match(refused.json, { code: 'rate_limited' });
  t.ok(Number(refused.headers['retry-after']) > 50 && Number(refused.headers['retry-after']) <= 60);
  t.equal(await metric('rate_limit_hits_total{limit="ip"}'), 31);

  t.equal((await guess('::ffff:10.0.0.1')).status, 429, 'an IPv4-mapped address is the IPv4 address');
  t.equal((await guess('10.0.0.2')).status, 401, 'other addresses are not concerned');
  await flood('2001:db8::1');
  t.equal((await guess('2001:db8::ffff:2')).status, 429, 'one /64 is one client');
  t.equal((await guess('2001:db8:0:1::1')).status, 401, 'the next /64 is another');
});

t.test('no flood makes the memory of a process grow without end', async (t) => {
  const { request, issueKey, services } = await startTestApp(t, LENIENT);
  const { token } = await issueKey();
  await request('GET', ANYWHERE, { token });
  const { keys } = services.auth;

  const invented = Array.from({ length: 2_500 }, () => createToken('live').token);
  const heapBefore = heapUsed();
  for (let i = 0; i < invented.length; i += 50) {
    const headers = invented.slice(i, i + 50).map((each) => `Bearer ${each.padStart(8_000)}`);
    await Promise.all(headers.map((header) => keys.find(header.slice(7).trim())));
  }
  const grownMb = (heapUsed() - heapBefore) / 2 ** 20;
  t.ok(grownMb < 4, `2500 keys in headers of 8 kB keep ${grownMb.toFixed(1)} MB`);
  t.equal(keys.peek(String(invented[0])), undefined, 'the oldest invented key made room');
  t.ok(keys.recognizes(token), 'and pushed no good one out');
});

t.test('without Postgres hot keys go on, others get 503 and never 401', async (t) => {
  const postgres = await startPostgres(t);
  const { request, issueKey, metric } = await startTestApp(t, {
    DATABASE_URL: postgres.url,
    POOL_WAIT_TIMEOUT_MS: '500',
    AUTH_FAILURES_PER_MINUTE: '3',
  });
  const hot = await issueKey();
  const cold = await issueKey();
  t.equal((await request('GET', ANYWHERE, { token: hot.token })).status, LET_IN);

  await postgres.stop();

  t.equal((await request('GET', ANYWHERE, { token: hot.token })).status, LET_IN);
  for (let i = 0; i < 6; i++) {
    const { status, headers, json } = await request('GET', ANYWHERE, { token: cold.token });
    t.equal(status, 503, 'an outage is no failed attempt');
    t.ok(Number(headers['retry-after']) >= 1);
    t.match(json, { code: 'unavailable', detail: 'The service is temporarily unavailable' });
  }
  t.equal((await request('GET', ANYWHERE)).status, 401, 'no key is no key');
  t.equal(await metric('auth_failures_total{reason="unknown"}'), 0);

  await postgres.start();
  t.equal((await request('GET', ANYWHERE, { token: cold.token })).status, LET_IN, 'it heals by itself');
});

t.test('within five seconds', { jobs: 5 }, async (t) => {
  t.test('without Postgres a known key goes on only where a revocation would be heard of', async (t) => {
    const postgres = await startPostgres(t);
    const env = { DATABASE_URL: postgres.url, POOL_WAIT_TIMEOUT_MS: '500' };
    const alone = await startTestApp(t, env);
    const deaf = await startTestApp(t, { ...env, EXPECTED_REPLICAS: '2' });
    const { token } = await alone.issueKey();
    for (const { request } of [alone, deaf])
      t.equal((await request('GET', ANYWHERE, { token })).status, LET_IN);

    await postgres.stop();
    await delay(KEY_MEMORY_MS + 200);

    t.equal((await alone.request('GET', ANYWHERE, { token })).status, LET_IN, 'nobody else could revoke it');
    t.equal((await deaf.request('GET', ANYWHERE, { token })).status, 503, 'another process could have');
  });

  t.test(
    'in a black hole a known key waits for nobody, and everything else no longer than for a connection',
    async (t) => {
      const url = new URL(await createDatabase(t));
      const proxy = await startTcpProxy(t, Number(url.port));
      url.port = String(proxy.port);
      const poolWaitMs = 2_000;
      const { request, issueKey } = await startTestApp(t, {
        DATABASE_URL: url.href,
        POOL_WAIT_TIMEOUT_MS: String(poolWaitMs),
      });
      const [hot, seldom] = [await issueKey(), await issueKey()];
      const timed = async (token: string, path = ANYWHERE) => {
        const from = performance.now();
        const { status, headers } = await request('GET', path, { token });
        return { status, retryAfter: headers['retry-after'], ms: performance.now() - from };
      };
      for (const { token } of [hot, seldom]) t.equal((await timed(token)).status, LET_IN);

      proxy.cut();
      const rest = Array.from({ length: 3 }, () => timed(hot.token, '/v1/audit-events'));
      const waited: number[] = [];
      for (const end = performance.now() + 3 * KEY_MEMORY_MS; performance.now() < end; await delay(20)) {
        const { status, ms } = await timed(hot.token);
        if (status !== LET_IN) t.fail(`answered ${status}`);
        // Far less than for a connection, far more than the machine's other work takes.
        if (ms > poolWaitMs / 3) waited.push(ms);
      }
      t.same(waited, [], 'the key in use');
      t.match(await timed(seldom.token), { status: LET_IN }, 'one that was not used meanwhile');
      for (const { status, retryAfter, ms } of [
        ...(await Promise.all(rest)),
        await timed(hot.token, '/v1/audit-events'),
      ]) {
        t.equal(status, 503);
        t.match(retryAfter, /^\d+$/);
        // A process that was held up asks once more before it gives up; a silent socket alone would take 31 s.
        t.ok(ms < poolWaitMs + 2_000, `${ms} ms`);
      }

      proxy.mend();
      t.equal((await timed(hot.token, '/v1/audit-events')).status, 200, 'it heals by itself');
    },
  );

  t.test('a change waits for every process that remembers keys, and for nobody else', async (t) => {
    const redis = await redisUrl(t);
    if (!redis) return;
    const [first, second] = await startPair(t, redis);
    const { token: admin } = await first.issueKey();
    const revoke = async () => {
      const { id, token } = await first.issueKey();
      t.equal((await second.request('GET', ANYWHERE, { token })).status, LET_IN);
      const from = performance.now();
      t.equal((await first.request('DELETE', `/v1/api-keys/${id}`, { token: admin })).status, 204);
      const tookMs = performance.now() - from;
      t.equal((await second.request('GET', ANYWHERE, { token })).status, 401);
      return tookMs;
    };
    const [listener, speaker] = [new Redis(redis), new Redis(redis)];
    t.teardown(() => [listener, speaker].forEach((client) => client.disconnect()));
    const heardOn = new Set<string>();
    let onChange = (_message: string): unknown => undefined;
    listener.on('message', (channel: string, message: string) => {
      heardOn.add(channel);
      onChange(message);
    });
    const confirm = (message: string) => {
      const [announcement, replyChannel = ''] = message.split(' ');
      return speaker.publish(replyChannel, `${announcement} hp:keys:live:process:3`);
    };

    await listener.subscribe('hp:keys:live:changed', 'hp:keys:staging:changed', 'hp:keys:staging:process:1');
    t.ok((await revoke()) < KEY_MEMORY_MS / 2, 'not for another environment, nor for who only listens');
    t.same([...heardOn], ['hp:keys:live:changed']);

    await listener.subscribe('hp:keys:live:process:3');
    onChange = () => {
      onChange = () => undefined;
      setTimeout(() => void listener.unsubscribe('hp:keys:live:process:3'), 300);
    };
    const leftAfterMs = await revoke();
    t.ok(
      leftAfterMs > 290 && leftAfterMs < KEY_MEMORY_MS - 500,
      `for one until it leaves: ${leftAfterMs} ms`,
    );

    await listener.subscribe('hp:keys:live:process:3');
    let lastMessage = '';
    onChange = (message) => (lastMessage = message);
    t.ok((await revoke()) >= KEY_MEMORY_MS, 'for a silent one until it cannot remember a key');
    t.ok((await revoke()) < KEY_MEMORY_MS / 2, 'and not again');
    t.equal(first.logs.filter(({ message }) => /did not confirm/.test(String(message))).length, 1);

    await confirm(lastMessage);
    onChange = (message) => {
      onChange = () => undefined;
      setTimeout(() => void confirm(message), 300);
    };
    const confirmedAfterMs = await revoke();
    t.ok(confirmedAfterMs > 290, 'before it was heard of');
    t.ok(confirmedAfterMs < KEY_MEMORY_MS - 500, 'then until it confirms');
  });

  t.test('a look-up that takes long is believed from the question on, not from the answer', async (t) => {
    const url = await createDatabase(t);
    const { request, issueKey } = await startTestApp(t, { DATABASE_URL: url });
    const { id, token } = await issueKey();
    await withClient(url, async (client) => {
      await client.query('alter table api_key rename to api_key_stored');
      await client.query(
        `create view api_key as select stored.* from api_key_stored stored,
           lateral (select pg_advisory_xact_lock_shared(2) where stored.id is not null) gate`,
      );
      await client.query('select pg_advisory_lock(2)');
      const asked = request('GET', ANYWHERE, { token });
      await until('the look-up has read the row', async () => {
        const { rows } = await client.query(
          `select from pg_locks where locktype = 'advisory' and not granted
             and database = (select oid from pg_database where datname = current_database())`,
        );
        return rows.length === 1;
      });
      // By a process that cannot tell the others.
      await client.query('update api_key_stored set revoked_at = now() where id = $1', [id]);
      const revokedAt = performance.now();
      await delay(KEY_MEMORY_MS / 2);
      await client.query('select pg_advisory_unlock(2)');

      t.equal((await asked).status, LET_IN);
      t.equal((await request('GET', ANYWHERE, { token })).status, LET_IN, 'and is remembered');
      await delay(revokedAt + KEY_MEMORY_MS - performance.now());
      t.equal((await request('GET', ANYWHERE, { token })).status, 401);
    });
  });

  t.test('a change is known at once with a Redis that is full', async (t) => {
    const redis = await startRedis(t);
    if (!redis) return;
    const [first, second] = await startPair(t, redis.url);
    const { token: admin } = await first.issueKey();
    const { id, token } = await first.issueKey();
    const client = new Redis(redis.url);
    await client.config('SET', 'maxmemory', '1');
    await t.rejects(client.set('x', '1'), /OOM/);
    client.disconnect();
    t.equal((await second.request('GET', ANYWHERE, { token })).status, LET_IN);

    const from = performance.now();
    t.equal((await first.request('DELETE', `/v1/api-keys/${id}`, { token: admin })).status, 204);
    t.ok(performance.now() - from < KEY_MEMORY_MS / 2);
    t.equal((await second.request('GET', ANYWHERE, { token })).status, 401);
  });

  t.test('and later, a good key works behind an address that guesses', async (t) => {
    const { request, issueKey } = await startTestApp(t, { AUTH_FAILURES_PER_MINUTE: '5' });
    const { token } = await issueKey();
    t.equal((await request('GET', ANYWHERE, { token })).status, LET_IN);
    for (let i = 0; i < 10; i++) await request('GET', ANYWHERE, { token: createToken('live').token });
    t.equal((await request('GET', ANYWHERE, { token: createToken('live').token })).status, 429);

    t.equal((await request('GET', ANYWHERE, { token })).status, LET_IN, 'while it is hot');
    await delay(KEY_MEMORY_MS + 50);
    t.equal(
      (await request('GET', ANYWHERE, { token })).status,
      LET_IN,
      'and when it must be asked for again',
    );
    t.equal((await request('GET', ANYWHERE, { token: createToken('live').token })).status, 429);
  });
});

t.test('nothing was left unhandled', async (t) => {
  t.same(unhandled, []);
});

/** In bytes, of what is still in use. */
function heapUsed(): number {
  setFlagsFromString('--expose-gc');
  for (let i = 0; i < 3; i++) runInNewContext('gc')();
  return process.memoryUsage().heapUsed;
}

/** What anybody can make who knows the id of a key: all of it but the secret is right. */
function forge(id: string, secret = 0): string {
  const body = `hp_live_${id}_${String(secret).padStart(30, 'A')}`;
  const alphabet = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
  let checksum = '';
  for (let rest = crc32(body); checksum.length < 6; rest = Math.floor(rest / 62)) {
    checksum = `${alphabet[rest % 62]}${checksum}`;
  }
  return body + checksum;
}

/** Each query of a key then takes so many seconds. */
async function slowDownLookUps(url: string, seconds: number): Promise<void> {
  await withClient(url, async (client) => {
    await client.query('alter table api_key rename to api_key_stored');
    await client.query(
      `create view api_key as select stored.* from (select pg_sleep(${seconds})) slow, api_key_stored stored`,
    );
  });
}

function countBy(values: number[]): Record<number, number> {
  const counts: Record<number, number> = {};
  for (const value of values) counts[value] = (counts[value] ?? 0) + 1;
  return counts;
}

/** Two processes on one database and one Redis; ready when both hear what keys the other changes. */
async function startPair(t: Test, REDIS_URL: string): Promise<[TestApp, TestApp]> {
  const env = { DATABASE_URL: await createDatabase(t), ...LENIENT, REDIS_URL };
  const client = new Redis(REDIS_URL);
  const count = async () => ((await client.pubsub('CHANNELS', 'hp:keys:live:process:*')) as string[]).length;
  const countBefore = await count();
  const pair = await Promise.all([startTestApp(t, env), startTestApp(t, env)]);
  await until('both hear of changes', async () => (await count()) === countBefore + 2);
  client.disconnect();
  return pair;
}
