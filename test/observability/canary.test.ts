import { DatabaseError } from 'pg';
import t, { type Test } from 'tap';
// example:start
import { newOrder } from '../support/app.ts';
// example:end
import { startTestApp } from '../support/app.ts';
import { CANARY, refuseLeaks, secretsIn, secretsOf } from '../support/canary.ts';
import { createDatabase } from '../support/postgres.ts';
import { send } from '../support/raw-http.ts';
import { startRedis } from '../support/redis.ts';
import { startService } from '../support/service.ts';
import { until } from '../support/until.ts';

const LIST = '/v1/audit-events';
const ONE = '/v1/api-keys/000000000001';

t.test('No secret, key or body is ever in a log, an error or a metric.', async (t) => {
  const service = await startTestApp(t, {
    LOG_LEVEL: 'trace',
    TRUSTED_PROXIES: '127.0.0.1',
    SECRET_KEY: `${CANARY}-3x9Kq7Lw2Zp5Vb8Nm4Rt6Yh1Jd`,
  });
  const { request, services } = service;
  const port = Number(new URL(await service.app.listen({ host: '127.0.0.1', port: 0 })).port);
  const { token } = await service.issueKey();
  const headers = {
    cookie: `session=${CANARY}`,
    'proxy-authorization': CANARY,
    'user-agent': CANARY,
    referer: `https://a.example/?token=${CANARY}`,
    'x-forwarded-for': CANARY,
    'x-request-id': `${CANARY} `,
    traceparent: CANARY,
    tracestate: `${CANARY}=1`,
    'if-none-match': `"${CANARY}"`,
    'idempotency-key': `${CANARY} ${CANARY}`,
  };
  const { 'idempotency-key': _, ...accepted } = headers;
  const failures = [
    await request('GET', `${LIST}?status=${CANARY}`, { token, headers }),
    await request('GET', `${LIST}?cursor=${CANARY}`, { token, headers }),
    await request('GET', `${LIST}?api_key=${CANARY}`, { headers: { ...headers, 'x-api-key': CANARY } }),
    await request('GET', `/${CANARY}/${CANARY}`, { token: `hp_live_${CANARY}_${token}`, headers }),
    await request('GET', LIST, { token: `${token.slice(0, -1)}0`, headers }),
    await request('GET', LIST, { headers: { authorization: `Basic ${CANARY}`, 'x-api-key': token } }),
    await request('POST', '/v1/api-keys', { token, headers, body: { name: CANARY, scopes: [CANARY] } }),
    await request('POST', '/v1/api-keys', { token, headers, body: { name: 1, scopes: CANARY } }),
    await request('PATCH', ONE, { token, headers, body: { name: CANARY } }),
    // example:start
    await request('POST', '/v1/orders', { token, headers, body: newOrder() }),
    // example:end
  ];
  const key = { name: CANARY, scopes: ['*'] };
  const issued = await request('POST', '/v1/api-keys', { token, body: key });
  t.equal(issued.status, 201);
  // example:start
  const order = newOrder();
  t.equal((await request('POST', '/v1/orders', { token, body: order })).status, 201);
  failures.push(await request('POST', '/v1/orders', { token, body: order }));
  // example:end

  // What the database and the drivers say of it.
  const { query } = services.db;
  const refused = { name: 'refused', text: 'select $1::uuid', values: [CANARY] };
  const own = Object.assign(new Error('no'), { body: CANARY, headers, query: CANARY });
  for (const fail of [() => query(refused), () => Promise.reject(own)]) {
    Object.assign(services.db, { query: fail });
    failures.push(await request('GET', LIST, { token, headers: accepted }));
  }
  Object.assign(services.db, { query });
  const detailed = Object.assign(new DatabaseError('x', 1, 'error'), { detail: `Key (name)=(${CANARY})` });
  service.app.log.warn({ err: detailed, error: detailed }, 'as Fastify and as we call it');
  service.app.log.warn({ headers, body: key, token, sub: { password: CANARY } }, 'what somebody will try');

  const raw = [
    `GET ${LIST} HTTP/1.1\r\nHost: a\r\nX-A: ${CANARY.repeat(3_000)}\r\n\r\n`,
    `GET ${LIST} HTTP/1.1\r\nHost: a\r\nAuthorization : ${CANARY}\r\n\r\n`,
    `GET /${CANARY}%zz HTTP/1.1\r\nHost: a\r\n\r\n`,
    `GET /${CANARY.repeat(50)} HTTP/1.1\r\nHost: ${CANARY} ${CANARY}\r\nConnection: close\r\n\r\n`,
    `${CANARY} / HTTP/1.1\r\nHost: a\r\n\r\n`,
    `POST /v1/api-keys HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 7\r\n\r\n{${CANARY}`,
  ];
  const answers = (await Promise.all(raw.map((bytes) => send(port, bytes)))).flat();

  t.equal(answers.length, raw.length);
  t.ok(failures.every(({ status }) => status >= 400));
  const { body: metrics } = await service.internal.inject('/metrics');
  refuseLeaks([...secretsOf(token), ...secretsOf(issued.json.token)], {
    log: JSON.stringify(service.logs),
    errors: JSON.stringify([...failures.map(({ text, headers: answered }) => [text, answered]), ...answers]),
    metrics,
  });
  const statuses = new Set(service.logs.map(({ status }) => status));
  for (const status of [201, 400, 401, 404, 431, 500]) t.ok(statuses.has(status), `${status} was among them`);
});

t.test('nor is a password that Postgres or Redis refuses', async (t) => {
  const redis = await startRedis(t, { args: ['--requirepass', 'the-right-one'] });
  if (!redis) return;
  const databaseUrl = new URL(await createDatabase(t));
  databaseUrl.password = `${CANARY}-of-postgres`;
  const service = await startService(t, {
    LOG_LEVEL: 'trace',
    DATABASE_URL: databaseUrl.href,
    DATABASE_URL_REPLICA: databaseUrl.href.replace('of-postgres', 'of-replica'),
    REDIS_URL: `redis://:${CANARY}-of-redis@127.0.0.1:${redis.port}`,
    REDIS_CACHE_URL: `redis://user:${CANARY}-of-cache@127.0.0.1:${redis.port}/1`,
    API_KEY_SECRET: `${CANARY}-3x9Kq7Lw2Zp5Vb8Nm4Rt6Yh1Jd`,
  });
  const read = async (url: string) => (await fetch(url)).text();
  await until('both refusals are in the log', () => {
    return [/Redis cannot be used/, /not ready: Postgres/].every((message) => {
      void read(`${service.url}/health`);
      return service.logs.some((line) => message.test(String(line.message)));
    });
  });

  const said = {
    log: JSON.stringify(service.logs),
    health: await read(`${service.url}/health`),
    errors: await read(`${service.url}${LIST}`),
    metrics: await read(`${service.metricsUrl}/metrics`),
    status: await read(`${service.metricsUrl}/internal/status`),
  };
  refuseLeaks([], said);
  t.match(said.status, '"state":"disconnected"');
  t.match(said.log, /password authentication failed|WRONGPASS|28P01/);
});

t.test('the end of every test that runs the service looks for leaks', async (t) => {
  const teardowns: (() => unknown)[] = [];
  const inner = { teardown: (work: () => unknown) => teardowns.push(work) } as unknown as Test;
  const service = await startTestApp(inner);
  const { token } = await service.issueKey();

  service.app.log.info(`leaked ${token.split('_').at(-1)}`);

  const ends = await Promise.allSettled(teardowns.map((work) => work()));
  const reasons = ends.flatMap((end) => (end.status === 'rejected' ? [String(end.reason)] : []));
  t.match(reasons, [/Error: A secret is in the log, after: .*leaked $/]);
  t.notOk(reasons.join().includes(token.slice(-20)));
});

t.test('it knows what a secret is', async (t) => {
  const env = {
    DATABASE_URL: 'postgres://app:pass%2Fword-1@db/app',
    REDIS_URL: 'redis://:redis-password@redis',
    API_KEY_SECRET: 'a-secret-of-this-service',
    OTEL_EXPORTER_OTLP_HEADERS: 'authorization=Bearer%20collector-token',
    API_PORT: '8000',
  };
  const secrets = secretsIn(env).filter(Boolean);
  t.same(secrets.toSorted(), [
    'Bearer%20collector-token',
    'a-secret-of-this-service',
    'authorization',
    'pass/word-1',
    'redis-password',
  ]);
  t.same(secretsOf('Bearer hp_live_id_abc'), ['Bearer hp_live_id_abc', 'hp_live_id_abc', 'abc']);
  for (const place of ['log', 'errors', 'metrics']) {
    t.throws(() => refuseLeaks(secrets, { [place]: 'is redis-password' }), {
      message: `A secret is in the ${place}`,
    });
    t.throws(() => refuseLeaks([], { [place]: `x ${CANARY}` }), /A secret/);
  }
  refuseLeaks([...secrets, 'short'], { log: 'nothing of it, and what is short does not count' });
});
