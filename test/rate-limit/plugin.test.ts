import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import t, { type Test } from 'tap';
// example:start
import { newOrder } from '../support/app.ts';
// example:end
import { startTestApp, type TestApp, type TestResponse } from '../support/app.ts';
import { createDatabase } from '../support/postgres.ts';
import { redisUrl, startRedis } from '../support/redis.ts';
import { startService } from '../support/service.ts';
import { startStopwatch } from '../support/stopwatch.ts';
import { until } from '../support/until.ts';

/** Needs a key, costs nothing else, and is 404 when it is let in. */
const ANYWHERE = '/v1/nowhere';
const LET_IN = 404;
const COMMAND_TIMEOUT_MS = 150;
const SLACK_MS = 50;

t.test('the limit is of a key, not of an address, and the answers tell how much of it is left', async (t) => {
  const { request, issueKey, metric } = await startTestApp(t, { RATE_LIMIT_PER_MINUTE: '4' });
  const { token } = await issueKey();
  const { token: other } = await issueKey();
  const ask = (key: string, remoteAddress = '10.0.0.1') =>
    request('GET', ANYWHERE, { token: key, remoteAddress });

  const answers = [await ask(token), await ask(token), await ask(token, '10.0.0.2'), await ask(token)];
  const refused = await ask(token, '10.0.0.3');

  t.same(
    answers.map(({ status }) => status),
    [LET_IN, LET_IN, LET_IN, LET_IN],
  );
  t.same(
    answers.map((answer) => readLimit(answer).remaining),
    [3, 2, 1, 0],
  );
  for (const answer of answers) {
    t.equal(answer.headers['ratelimit-policy'], '"minute";q=4;w=60');
    t.equal(answer.headers['retry-after'], undefined);
  }
  t.equal(refused.status, 429);
  t.match(refused.json, { code: 'rate_limited', detail: 'More than 4 requests in 60 s' });
  t.equal(refused.headers['ratelimit-policy'], '"minute";q=4;w=60');
  const moments = [...answers, refused].map((answer) => readLimit(answer).resetSeconds);
  t.equal(refused.headers['retry-after'], String(moments.at(-1)), 'both headers name one moment');
  t.same(
    moments,
    moments.toSorted((a, b) => b - a),
    'which does not move away',
  );
  t.ok(Number(moments.at(-1)) > 50 && Number(moments[0]) <= 60);
  t.equal((await ask(other)).status, LET_IN, 'another key behind the same address');
  t.equal(await metric('rate_limit_hits_total{limit="key"}'), 1);
  t.equal(await metric('api_errors_total{code="rate_limited"}'), 1);
});

t.test('a key may have a limit of its own', async (t) => {
  const { request, issueKey } = await startTestApp(t, { RATE_LIMIT_PER_MINUTE: '4' });
  const { token } = await issueKey({ limitPerMinute: 2 });
  const { token: generous } = await issueKey({ limitPerMinute: 50 });

  t.same(await statusesOf(10, () => request('GET', ANYWHERE, { token })), { [LET_IN]: 2, 429: 8 });
  t.same(await statusesOf(60, () => request('GET', ANYWHERE, { token: generous })), {
    [LET_IN]: 50,
    429: 10,
  });
});

t.test('every route, HEAD and unknown URLs pay from one purse', async (t) => {
  const { app, request, issueKey } = await startTestApp(t, { RATE_LIMIT_PER_MINUTE: '6' });
  const { token } = await issueKey();
  const headers = { authorization: `Bearer ${token}` };
  const head = async () =>
    (await app.inject({ method: 'HEAD', url: '/v1/audit-events', headers })).statusCode;

  t.equal((await request('GET', '/v1/audit-events', { token })).status, 200);
  t.equal(await head(), 200);
  t.equal((await request('POST', '/v1/api-keys', { token, body: { name: 'x', scopes: ['*'] } })).status, 201);
  t.equal((await request('GET', ANYWHERE, { token })).status, 404);
  t.equal((await request('PUT', '/v1/audit-events', { token })).status, 405);
  t.equal((await request('GET', '/v1/audit-events?limit=0', { token })).status, 400);

  t.equal(await head(), 429);
  t.equal((await request('GET', '/v1/audit-events', { token })).status, 429);
  t.equal((await request('GET', `${ANYWHERE}/else`, { token })).status, 429);
  t.equal((await request('PUT', '/v1/audit-events', { token })).status, 429);
  t.equal((await request('GET', '/health')).status, 200, 'probes pay nothing');
});

t.test('without keys the limit is of an address', async (t) => {
  const { request } = await startTestApp(t, { AUTH_REQUIRED: 'false', RATE_LIMIT_PER_MINUTE: '2' });
  const ask = (remoteAddress: string) => () => request('GET', ANYWHERE, { remoteAddress });

  t.same(await statusesOf(3, ask('10.0.0.1')), { [LET_IN]: 2, 429: 1 });
  t.same(await statusesOf(3, ask('10.0.0.2')), { [LET_IN]: 2, 429: 1 });
  t.same(await statusesOf(1, ask('2001:db8::1')), { [LET_IN]: 1 });
  t.same(await statusesOf(2, ask('2001:db8::2')), { [LET_IN]: 1, 429: 1 }, 'one /64 is one client');
});

t.test('RATE_LIMIT_BURST bounds each second, with Redis and without', async (t) => {
  const redis = await redisUrl(t);
  // A busy machine is late, and Redis is not away: an answer that is not waited for takes its token with it.
  for (const env of [{}, ...(redis ? [{ REDIS_URL: redis, REDIS_COMMAND_TIMEOUT_MS: '500' }] : [])]) {
    const app = await startTestApp(t, { RATE_LIMIT_PER_MINUTE: '8', RATE_LIMIT_BURST: '3', ...env });
    if ('REDIS_URL' in env) await connected(app);
    const { token } = await app.issueKey();
    const ask = () => app.request('GET', ANYWHERE, { token });

    t.same(await statusesOf(10, ask), { [LET_IN]: 3, 429: 7 });
    const refused = await ask();
    t.equal(refused.headers['ratelimit-policy'], '"second";q=3;w=1');
    t.equal(refused.headers.ratelimit, '"second";r=0;t=1');
    t.equal(refused.headers['retry-after'], '1');
    t.equal(await app.metric('rate_limit_hits_total{limit="burst"}'), 8);

    await delay(1_050);
    t.same(await statusesOf(10, ask), { [LET_IN]: 3, 429: 7 }, 'the moment that was named is right');
    await delay(1_050);
    // Two are left of the minute; one of them may be lost with a late answer.
    const { [LET_IN]: last = 0, 429: others = 0 } = await statusesOf(10, ask);
    t.ok(
      last >= 1 && last <= 2 && last + others === 10,
      `what the second refused cost nothing: ${last} of 2`,
    );
    t.equal((await ask()).headers['ratelimit-policy'], '"minute";q=8;w=60');
  }
});

t.test('a tenant has a limit over all its keys, and what it refuses costs the key nothing', async (t) => {
  const REDIS_URL = await redisUrl(t);
  for (const env of [{}, ...(REDIS_URL ? [{ REDIS_URL, REDIS_COMMAND_TIMEOUT_MS: '2000' }] : [])]) {
    const app = await startTestApp(t, {
      RATE_LIMIT_PER_MINUTE: '6',
      RATE_LIMIT_TENANT_PER_MINUTE: '8',
      ...env,
    });
    if ('REDIS_URL' in env) await connected(app);
    const [first, second, third] = [await app.issueKey(), await app.issueKey(), await app.issueKey()];
    const { token: stranger } = await app.issueKey({ tenant: 'other' });
    const ask = (token: string) => () => app.request('GET', ANYWHERE, { token });

    t.same(await statusesOf(4, ask(first.token)), { [LET_IN]: 4 });
    t.same(await statusesOf(9, ask(second.token)), { [LET_IN]: 4, 429: 5 });
    const refused = await app.request('GET', ANYWHERE, { token: third.token });
    t.equal(refused.headers['ratelimit-policy'], '"tenant";q=8;w=60');
    t.equal(refused.headers['retry-after'], String(readLimit(refused).resetSeconds));
    t.equal(await app.metric('rate_limit_hits_total{limit="tenant"}'), 6);
    t.equal(await app.metric('rate_limit_hits_total{limit="key"}'), 0, 'of 9 the key was charged for 4');
    t.same(await statusesOf(7, ask(stranger)), { [LET_IN]: 6, 429: 1 }, 'another tenant');
  }
});

t.test('a request costs what its kind costs, at most the whole limit', async (t) => {
  const { app, request, issueKey } = await startTestApp(t, {
    RATE_LIMIT_PER_MINUTE: '10',
    RATE_LIMIT_COST_READ: '1',
    RATE_LIMIT_COST_WRITE: '4',
  });
  const { token } = await issueKey();
  const left = async (method: 'GET' | 'HEAD' | 'PUT') => {
    const headers = { authorization: `Bearer ${token}` };
    const answer = await app.inject({ method, url: ANYWHERE, headers });
    return readLimit({ headers: answer.headers } as TestResponse).remaining;
  };

  t.same([await left('GET'), await left('PUT'), await left('HEAD')], [9, 5, 4]);
  t.equal(await left('PUT'), 0);
  t.equal((await request('GET', ANYWHERE, { token })).status, 429);

  const { token: small } = await issueKey({ limitPerMinute: 3 });
  t.equal((await request('PUT', ANYWHERE, { token: small })).status, LET_IN);
  t.equal((await request('PUT', ANYWHERE, { token: small })).status, 429);
});

t.test('RATE_LIMIT_SHADOW refuses nothing and counts what would be refused', async (t) => {
  const { request, issueKey, metric } = await startTestApp(t, {
    RATE_LIMIT_PER_MINUTE: '5',
    RATE_LIMIT_BURST: '2',
    RATE_LIMIT_SHADOW: 'true',
  });
  const { token } = await issueKey();
  const ask = () => request('GET', ANYWHERE, { token });

  t.same(await statusesOf(9, ask), { [LET_IN]: 9 });
  t.equal((await ask()).headers.ratelimit, undefined);
  t.equal(await metric('rate_limit_hits_total{limit="burst"}'), 8);
  t.equal(await metric('rate_limit_hits_total{limit="key"}'), 5);
});

t.test('RATE_LIMIT_ENABLED=false limits nothing and says nothing', async (t) => {
  const { request, issueKey } = await startTestApp(t, {
    RATE_LIMIT_ENABLED: 'false',
    RATE_LIMIT_PER_MINUTE: '2',
  });
  const { token } = await issueKey({ limitPerMinute: 1 });

  const ask = () => request('GET', ANYWHERE, { token });
  t.same(await statusesOf(10, ask), { [LET_IN]: 10 });
  const names = Object.keys((await ask()).headers);
  t.same(
    names.filter((name) => /ratelimit|retry/.test(name)),
    [],
  );
});

t.test('processes on one Redis admit exactly the limit together, and every key in Redis ends', async (t) => {
  const REDIS_URL = await redisUrl(t);
  if (!REDIS_URL) return;
  const apps = await startApps(t, 3, {
    REDIS_URL,
    RATE_LIMIT_PER_MINUTE: '90',
    EXPECTED_REPLICAS: '3',
    // A busy machine is late, and Redis is not away.
    REDIS_COMMAND_TIMEOUT_MS: '2000',
  });
  const [{ issueKey }] = apps as [TestApp];
  const client = new Redis(REDIS_URL);
  t.teardown(() => client.disconnect());

  for (const { offered, admitted } of [
    { offered: 81, admitted: 81 },
    { offered: 90, admitted: 90 },
    { offered: 270, admitted: 90 },
  ]) {
    const { token } = await issueKey();
    const counts = await Promise.all(
      apps.map(({ request }) => statusesOf(offered / 3, () => request('GET', ANYWHERE, { token }))),
    );
    const sum = (status: number) => counts.reduce((total, count) => total + (count[status] ?? 0), 0);
    t.equal(sum(LET_IN), admitted, `of ${offered} offered at once`);
    t.equal(sum(429), offered - admitted);
  }
  const { token } = await issueKey();
  for (let i = 0; i < 30; i++) {
    for (const { request } of apps) t.equal((await request('GET', ANYWHERE, { token })).status, LET_IN);
  }
  for (const { request } of apps) t.equal((await request('GET', ANYWHERE, { token })).status, 429);

  // example:start
  const { json } = await apps[0]!.request('POST', '/v1/orders', {
    token: (await issueKey()).token,
    body: newOrder(),
  });
  await apps[1]!.request('GET', `/v1/orders/${json.id}`, { token: (await issueKey()).token });
  // example:end
  const keys = await client.keys('*');
  t.ok(keys.length >= 5, keys.join(' '));
  // -1 would be one without an end; one that has ended by now is as good.
  for (const key of keys) t.not(await client.pttl(key), -1, key);
  for (const { metric } of apps) t.equal(await metric('rate_limit_fallback_total'), 0);
});

t.test('without Redis no request fails and no limit disappears, and it comes back by itself', async (t) => {
  const redis = await startRedis(t);
  if (!redis) return;
  const env = { REDIS_URL: redis.url, RATE_LIMIT_PER_MINUTE: '20', EXPECTED_REPLICAS: '2' };
  const [first, second] = (await startApps(t, 2, env)) as [TestApp, TestApp];
  t.equal(await first.metric('rate_limit_local'), 0);

  await redis.stop();
  await until('Redis is missed', async () => (await first.metric('redis_up{role="limits"}')) === 0);

  const { token } = await first.issueKey();
  for (const app of [first, second]) {
    const counts = await statusesOf(50, () => app.request('GET', ANYWHERE, { token }));
    t.same(counts, { [LET_IN]: 10, 429: 40 }, 'the share of one process');
    t.equal(await app.metric('rate_limit_local'), 1);
    t.equal(await app.metric('rate_limit_fallback_total'), 50);
  }
  const refused = await first.request('GET', ANYWHERE, { token });
  t.equal(refused.headers['ratelimit-policy'], '"minute";q=10;w=60', 'the limit that decided');
  t.match(refused.json, {
    detail: 'More than 10 requests in 60 s, the share of this process of 20 without Redis',
  });
  t.equal(refused.headers['retry-after'], String(readLimit(refused).resetSeconds));
  const lines = first.logs.filter(({ message }) => message === 'Redis is away: limits are kept per process');
  t.equal(lines.length, 1, 'one line an interval');

  await redis.start();
  for (const app of [first, second]) await until('it asks Redis again', () => asksRedis(app));
  const { token: fresh } = await first.issueKey();
  const counts = await Promise.all(
    [first, second].map(({ request }) => statusesOf(20, () => request('GET', ANYWHERE, { token: fresh }))),
  );
  t.equal((counts[0]?.[LET_IN] ?? 0) + (counts[1]?.[LET_IN] ?? 0), 20, 'together again');
});

t.test('one slow answer of Redis changes nothing for keys that it did not concern', async (t) => {
  const redis = await startRedis(t);
  if (!redis) return;
  const [app] = (await startApps(t, 1, {
    REDIS_URL: redis.url,
    RATE_LIMIT_PER_MINUTE: '100',
    EXPECTED_REPLICAS: '10',
    REDIS_COMMAND_TIMEOUT_MS: '500',
  })) as [TestApp];
  const admin = new Redis(redis.url);
  t.teardown(() => admin.disconnect());
  const [{ token: late }, { token: other }] = [await app.issueKey(), await app.issueKey()];
  const ask = (token: string) => app.request('GET', ANYWHERE, { token });
  t.equal((await ask(other)).headers['ratelimit-policy'], '"minute";q=100;w=60');

  await admin.client('PAUSE', 900);
  const slow = await ask(late);
  t.equal(slow.status, LET_IN);
  t.equal(slow.headers['ratelimit-policy'], '"minute";q=10;w=60', 'the share decided');
  t.equal(await app.metric('rate_limit_local'), 1);
  t.equal(await app.metric('rate_limit_fallback_total'), 1);
  await admin.ping();

  t.same(await statusesOf(120, () => ask(other)), { [LET_IN]: 99, 429: 21 });
  const refused = await ask(other);
  t.equal(refused.headers['ratelimit-policy'], '"minute";q=100;w=60');
  t.match(refused.json, { detail: 'More than 100 requests in 60 s' });
  t.equal(await app.metric('rate_limit_local'), 0);
  t.equal(await app.metric('rate_limit_fallback_total'), 1);

  const counts = await statusesOf(20, () => ask(late));
  t.same(counts, { [LET_IN]: 9, 429: 11 }, 'the share, for a window, of the key that was not answered');
  const held = await ask(late);
  t.equal(held.headers['ratelimit-policy'], '"minute";q=10;w=60');
  t.match(held.json, {
    detail: 'More than 10 requests in 60 s, the share of this process of 100 without Redis',
  });
  t.equal(await app.metric('rate_limit_local'), 1);
});

t.test('a frozen Redis delays a request by its timeout at most, and fails none', async (t) => {
  const redis = await startRedis(t);
  if (!redis) return;
  const [app] = (await startApps(t, 1, {
    REDIS_URL: redis.url,
    REDIS_COMMAND_TIMEOUT_MS: String(COMMAND_TIMEOUT_MS),
    RATE_LIMIT_BURST: '1000',
    RATE_LIMIT_PER_MINUTE: '1000',
  })) as [TestApp];
  const { token } = await app.issueKey();
  const timed = async () => {
    const stopwatch = startStopwatch();
    const { status } = await app.request('GET', ANYWHERE, { token });
    return { status, ms: stopwatch().ms };
  };
  await timed();

  redis.freeze();
  const answers = [await timed(), await timed(), ...(await Promise.all(Array.from({ length: 20 }, timed)))];
  for (let i = 0; i < 40; i++) {
    answers.push(await timed());
    await delay(40);
  }
  redis.thaw();

  t.same([...new Set(answers.map(({ status }) => status))], [LET_IN]);
  const slowest = Math.max(...answers.map(({ ms }) => ms));
  t.ok(slowest < COMMAND_TIMEOUT_MS + SLACK_MS, `the slowest took ${slowest} ms`);
  const waited = answers.filter(({ ms }) => ms > COMMAND_TIMEOUT_MS / 2).length;
  t.ok(waited < answers.length / 2, `${waited} of ${answers.length} waited`);
  await until('Redis is back', () => asksRedis(app));
});

t.test('a process that has no Redis keeps its share, and says so when it starts', async (t) => {
  const DATABASE_URL = await createDatabase(t);
  const { request, issueKey, metric } = await startTestApp(t, {
    DATABASE_URL,
    RATE_LIMIT_PER_MINUTE: '20',
    EXPECTED_REPLICAS: '4',
  });
  const { token } = await issueKey();
  t.same(await statusesOf(20, () => request('GET', ANYWHERE, { token })), { [LET_IN]: 5, 429: 15 });
  t.equal(await metric('rate_limit_local'), 1);
  t.equal(await metric('rate_limit_fallback_total'), 0, 'nothing fell back: it is meant so');

  const { logs } = await startService(t, { DATABASE_URL });
  await until('it says so', () =>
    logs.some(({ level, message }) => level === 'warn' && String(message).startsWith('no REDIS_URL: limits')),
  );
});

/** Processes on one database; ready when they are connected to Redis. */
async function startApps(t: Test, count: number, env: Record<string, string>): Promise<TestApp[]> {
  const DATABASE_URL = await createDatabase(t);
  const apps: TestApp[] = [];
  for (let i = 0; i < count; i++) {
    const app = await startTestApp(t, { DATABASE_URL, ...env });
    await connected(app);
    apps.push(app);
  }
  return apps;
}

/** Whether a request is decided with Redis; the share may count, too, for a window after an outage. */
async function asksRedis({ request, issueKey, metric }: TestApp): Promise<boolean> {
  const fellBack = await metric('rate_limit_fallback_total');
  await request('GET', ANYWHERE, { token: (await issueKey()).token });
  return (await metric('rate_limit_fallback_total')) === fellBack;
}

async function connected({ metric }: TestApp): Promise<void> {
  await until('Redis is ready', async () => (await metric('redis_up{role="limits"}')) === 1);
}

/** How often each status came when so many requests were sent at once. */
async function statusesOf(
  count: number,
  ask: () => Promise<{ status: number }>,
): Promise<Record<number, number>> {
  const counts: Record<number, number> = {};
  for (const { status } of await Promise.all(Array.from({ length: count }, ask))) {
    counts[status] = (counts[status] ?? 0) + 1;
  }
  return counts;
}

function readLimit({ headers }: TestResponse): { remaining: number; resetSeconds: number } {
  const [, remaining, resetSeconds] = /^"\w+";r=(\d+);t=(\d+)$/.exec(String(headers.ratelimit)) ?? [];
  return { remaining: Number(remaining), resetSeconds: Number(resetSeconds) };
}
