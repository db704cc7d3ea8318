import { execFile } from 'node:child_process';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import t, { type Test } from 'tap';
// example:start
import { AppError } from '../../src/errors.ts';
// example:end
import { createMetrics } from '../../src/observability/metrics.ts';
// example:start
import type { Query } from '../../src/postgres/postgres.ts';
// example:end
import { parseTraceContext, traceHeaders } from '../../src/observability/trace-context.ts';
import { createUpstream } from '../../src/upstream/client.ts';
// example:start
import { newOrder } from '../support/app.ts';
// example:end
import { startTestApp, type TestApp } from '../support/app.ts';
import { createDatabase, startPostgres } from '../support/postgres.ts';
import { header, send } from '../support/raw-http.ts';
import { startRedis } from '../support/redis.ts';
import { requireTool } from '../support/tools.ts';
import { until } from '../support/until.ts';

// One of them waits for a Postgres of its own.
t.jobs = 3;

const LIST = '/v1/audit-events';

async function scrape({ internal }: TestApp): Promise<string> {
  return (await internal.inject('/metrics')).body;
}

/** Name and labels of every series. */
function seriesOf(text: string): string[] {
  return text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => line.slice(0, line.lastIndexOf(' ')));
}

t.test('metrics', { buffered: true }, async (t) => {
  const service = await startTestApp(t, {
    AUTH_FAILURES_PER_MINUTE: '1000000',
    CORS_ORIGINS: 'https://app.example.com',
  });
  const first = await scrape(service);

  t.test('exist before the first request', async (t) => {
    const series = seriesOf(first);
    for (const [name, metric] of Object.entries(service.metrics)) {
      if (typeof metric === 'function' || !('name' in metric)) continue;
      const own = String(metric.name);
      t.ok(
        series.some((line) => line.replace(/(_bucket|_sum|_count)?(\{.*)?$/, '') === own),
        `${name} ${own}`,
      );
    }
    for (const status of ['200', '400', '401', '403', '429', '499', '500', '503', '504']) {
      t.ok(series.includes(`api_requests_total{method="GET",route="${LIST}",status="${status}"}`), status);
    }
    t.ok(series.includes('api_requests_total{method="OTHER",route="unmatched",status="400"}'));
    const ofProcess = ['process_cpu_seconds_total', 'process_resident_memory_bytes', 'process_open_fds'];
    for (const name of [...ofProcess, 'nodejs_eventloop_lag_p99_seconds', 'nodejs_heap_size_used_bytes']) {
      t.ok(series.includes(name) || process.platform !== 'linux', name);
    }
    t.match(first, /^# TYPE nodejs_gc_duration_seconds histogram$/m);
  });

  t.test('are what promtool takes for good ones', async (t) => {
    const promtool = requireTool(t, 'promtool');
    if (promtool === undefined) return;
    const check = execFile(promtool, ['check', 'metrics']);
    check.stdin?.end(first);
    let said = '';
    for (const stream of [check.stdout, check.stderr]) stream?.on('data', (text) => (said += String(text)));
    const [code] = await once(check, 'close');
    t.same([code, said], [0, '']);
    const { headers } = await service.internal.inject('/metrics');
    t.equal(headers['content-type'], 'text/plain; version=0.0.4; charset=utf-8');
  });

  t.test('do not grow by what clients make up', async (t) => {
    const { token } = await service.issueKey();
    const port = Number(new URL(await service.app.listen({ host: '127.0.0.1', port: 0 })).port);
    const good = `Authorization: Bearer ${token}\r\n`;
    const urls = Array.from({ length: 10_000 }, (_, i) => {
      const name = `${random()}/${random()}`;
      const url = [
        `/${name}`,
        `/v1/${name}`,
        `/v1/api-keys/${random()}`,
        `${LIST}?${name}=1`,
        `/docs/${name}`,
      ][i % 5];
      return `${METHODS[i % METHODS.length]} ${url} HTTP/1.1\r\nHost: a\r\n${i % 2 === 0 ? good : ''}\r\n`;
    });
    const keys = Array.from({ length: 1_000 }, (_, i) => {
      const key = ['', 'hp_live_', token][i % 3] + random();
      return `GET ${LIST} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${key}\r\n\r\n`;
    });
    const preflight = 'Origin: https://app.example.com\r\nAccess-Control-Request-Method: GET\r\n';
    const odd = [
      ...Array.from({ length: 1_000 }, () => `${random().toUpperCase()} / HTTP/1.1\r\nHost: a\r\n\r\n`),
      'GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n',
      `GET /${'a'.repeat(17_000)} HTTP/1.1\r\nHost: a\r\n\r\n`,
      `GET /v1/api-keys/${'a'.repeat(300)} HTTP/1.1\r\nHost: a\r\n${good}\r\n`,
      `OPTIONS ${LIST} HTTP/1.1\r\nHost: a\r\n${preflight}\r\n`,
      `GET ${LIST} HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n`,
      `POST ${LIST} HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\na`,
      `POST /v1/api-keys HTTP/1.1\r\nHost: a\r\n${good}Content-Type: application/json\r\nContent-Length: 1\r\n\r\n{`,
      'garbage\r\n\r\n',
    ];

    const answered = await Promise.all([flood(port, urls), flood(port, keys)]);
    for (let i = 0; i < odd.length; i += 50) {
      await Promise.all(odd.slice(i, i + 50).map((bytes) => flood(port, [bytes])));
    }

    t.same(answered, [urls.length, keys.length]);
    // Node tells of its own handles, and of garbage collection, as they come.
    const own = (text: string) => seriesOf(text).filter((line) => !/^nodejs_(active|gc)_/.test(line));
    const last = await scrape(service);
    t.same(own(last).toSorted(), own(first).toSorted());
    t.ok(/^api_requests_total\{method="OTHER",route="unmatched",status="400"\} 1\d{3}$/m.test(last));
    t.notMatch(last, token.slice(-20));
  });

  t.test('a feature adds its own in its own file', async (t) => {
    const metrics = createMetrics('test');
    const shipped = metrics.counter({
      name: 'parcels_shipped_total',
      help: 'Parcels that left',
      labels: { carrier: ['rail', 'road'], express: ['yes', 'no'] },
    });
    shipped.inc({ carrier: 'rail', express: 'no' });

    const text = await metrics.registry.getSingleMetricAsString('parcels_shipped_total');
    t.same(text.split('\n').slice(2).toSorted(), [
      'parcels_shipped_total{carrier="rail",express="no"} 1',
      'parcels_shipped_total{carrier="rail",express="yes"} 0',
      'parcels_shipped_total{carrier="road",express="no"} 0',
      'parcels_shipped_total{carrier="road",express="yes"} 0',
    ]);
  });

  // example:start
  t.test('count the orders that reach a status', async (t) => {
    const { token } = await service.issueKey();
    const status = (name: string) => service.metric(`orders_reached_status_total{status="${name}"}`);
    const headers = { 'idempotency-key': 'once' };
    const body = newOrder();
    const { json } = await service.request('POST', '/v1/orders', { token, headers, body });
    await service.request('POST', '/v1/orders', { token, headers, body });
    const change = { token, headers: { 'if-match': '"1"' }, body: { status: 'paid' } };
    await service.request('PATCH', `/v1/orders/${json.id}`, change);
    await service.request('PATCH', `/v1/orders/${json.id}`, change);

    t.same([await status('pending'), await status('paid'), await status('shipped')], [1, 1, 0]);
    t.match(first, 'orders_reached_status_total{status="delivered"} 0');
  });
  // example:end

  t.test('and the status are all that the internal listener has', async (t) => {
    for (const [method, url] of [
      ['GET', '/'],
      ['GET', '/c4n4ry'],
      ['GET', '/metrics/'],
      ['GET', '/health'],
      ['GET', '/status'],
      ['GET', LIST],
      ['POST', '/metrics'],
    ] as const) {
      const { statusCode, body, headers } = await service.internal.inject({ method, url });
      t.equal(statusCode, 404, `${method} ${url}`);
      t.match(headers['content-type'], 'application/problem+json');
      t.notMatch(body, /c4n4ry/);
    }
    for (const url of ['/metrics', '/internal/status']) {
      t.equal((await service.request('GET', url)).status, 404, `the public one has no ${url}`);
    }
  });
});

/** What Node's parser knows, and more than the service answers. */
const METHODS = [
  'GET',
  'HEAD',
  'POST',
  'PUT',
  'PATCH',
  'DELETE',
  'OPTIONS',
  'TRACE',
  'PROPFIND',
  'MKCOL',
  'SEARCH',
];

function random(): string {
  return Math.random().toString(36).slice(2);
}

/** Sends requests one after the other over one connection, and resolves to how many were answered. */
async function flood(port: number, requests: string[]): Promise<number> {
  const socket = connect(port, '127.0.0.1');
  let answers = 0;
  let rest = '';
  socket.on('data', (chunk: Buffer) => {
    const text = rest + chunk.toString('latin1');
    answers += text.split('\r\nx-request-id: ').length - 1;
    rest = text.slice(-'\r\nx-request-id: '.length + 1);
    if (answers === requests.length) socket.end();
  });
  socket.on('error', () => undefined);
  socket.write(requests.join(''), 'latin1');
  await once(socket, 'close');
  return answers;
}

t.test('a scrape measures the replica, and ends while Postgres hangs', { buffered: true }, async (t) => {
  const postgres = await startPostgres(t);
  const service = await startTestApp(t, { DATABASE_URL: postgres.url, DATABASE_URL_REPLICA: postgres.url });
  const lag = () => service.metric('db_replica_lag_seconds');

  // It is no standby, so nobody knows when it was current: since it is looked at, at most.
  await until('the lag grows though nobody reads', async () => (await lag()) > 1);
  postgres.freeze();
  const start = performance.now();
  const [one, other, status] = await Promise.all([
    scrape(service),
    scrape(service),
    service.internal.inject('/internal/status'),
  ]);
  const ms = performance.now() - start;
  for (let i = 0; i < 5; i++) await service.internal.inject('/internal/status');
  const { active, waiting } = service.services.db.stats();
  postgres.thaw();

  t.ok(ms < 8_000, `${ms} ms`);
  t.equal(one, other, 'two that ask at once get one answer');
  t.match(status.json(), {
    database: { state: 'disconnected', schema_version: null, replica_lag_seconds: Number },
  });
  t.ok(active + waiting <= 3, 'the questions do not pile up');
  await until('the status sees Postgres again', async () => {
    return (await service.internal.inject('/internal/status')).json().database.state === 'connected';
  });
});

t.test('the status', { buffered: true }, async (t) => {
  const redis = await startRedis(t);
  if (!redis) return;
  const service = await startTestApp(t, { REDIS_URL: redis.url, CONNECTION_POOL_SIZE: '4' });
  const { token } = await service.issueKey({ scopes: ['status:read', 'orders:write', 'orders:read'] });
  const inside = async () => (await service.internal.inject('/internal/status')).json();

  t.test('is told on both listeners, below /v1 to keys with the scope', async (t) => {
    let internal: Record<string, unknown> = {};
    await until('everything is connected', async () => {
      internal = await inside();
      return !/disconnected/.test(JSON.stringify(internal));
    });
    const other = await service.issueKey({ scopes: ['audit:read'] });
    t.match((await service.request('GET', '/v1/status', { token: other.token })).json, { code: 'forbidden' });
    t.equal((await service.request('GET', '/v1/status')).status, 401);

    const answer = await service.request('GET', '/v1/status', { token });
    t.equal(answer.headers['cache-control'], 'no-store');
    for (const status of [internal, answer.json]) {
      t.match(status, {
        version: '0.0.0-test',
        uptime_seconds: Number,
        draining: false,
        process: {
          cpu_percent: Number,
          rss_bytes: Number,
          heap_used_bytes: Number,
          event_loop_p99_ms: Number,
        },
        database: {
          state: 'connected',
          schema_version: /^\d{4}_/,
          pool_size: 4,
          pool_active: Number,
          pool_utilization_percent: Number,
          replica_lag_seconds: null,
        },
        cache: { enabled: true, hits: 0, misses: 0, hit_rate_percent: null },
        redis: { limits: 'connected', cache: 'connected' },
        rate_limit: { mode: 'redis' },
      });
    }
    t.notMatch(answer.text, /127\.0\.0\.1|postgres:|redis:\/\/|localhost/, 'and names no host');
  });

  t.test('measures', async (t) => {
    const before = await inside();
    const held: (() => void)[] = [];
    const holding = [1, 2, 3].map(() =>
      service.services.db.transaction(() => new Promise<void>((resolve) => held.push(resolve))),
    );
    await until('three connections are in use', () => held.length === 3);
    let status = await inside();
    // Asking for the schema version takes the fourth for a moment.
    await until('they are told', async () => {
      status = await inside();
      return status.database.pool_active === 3;
    });
    t.equal(status.database.pool_utilization_percent, 75);
    for (const release of held) release();
    await Promise.all(holding);
    t.ok(
      status.process.rss_bytes > 10_000_000 &&
        status.process.heap_total_bytes >= status.process.heap_used_bytes,
    );
    t.ok(status.uptime_seconds >= before.uptime_seconds);

    for (const result of ['hit', 'stale', 'negative', 'miss', 'error'] as const) {
      service.metrics.cacheRequests.inc({ result });
    }
    t.match((await inside()).cache, { hits: 3, misses: 1, hit_rate_percent: 75 });
    service.lifecycle.draining = true;
    t.equal((await inside()).draining, true);
    service.lifecycle.draining = false;
  });

  t.test('says that Redis is away, and what stands in for it', async (t) => {
    await redis.stop();
    await until('it is away', async () => (await inside()).redis.limits === 'disconnected');
    await service.request('GET', LIST, { token: (await service.issueKey()).token });
    t.match(await inside(), { redis: { cache: 'disconnected' }, rate_limit: { mode: 'fallback' } });
  });

  t.test('says what is not configured', async (t) => {
    const alone = await startTestApp(t, { CACHE_ENABLED: 'false' });
    const unlimited = await startTestApp(t, { RATE_LIMIT_ENABLED: 'false' });
    const read = async ({ internal }: TestApp) => (await internal.inject('/internal/status')).json();
    t.match(await read(alone), {
      cache: { enabled: false },
      redis: { limits: 'none', cache: 'none' },
      rate_limit: { mode: 'local' },
    });
    t.equal((await read(unlimited)).rate_limit.mode, 'off');
  });
});

const TRACE = '0af7651916cd43dd8448eb211c80319c';
const SPAN = 'b7ad6b7169203331';

t.test('traceparent is read as W3C Trace Context says', { buffered: true }, async (t) => {
  const valid: [text: string, flags: number][] = [
    [`00-${TRACE}-${SPAN}-01`, 1],
    [`00-${TRACE}-${SPAN}-00`, 0],
    [`00-${TRACE}-${SPAN}-03`, 3],
    [`00-${TRACE}-${SPAN}-ff`, 3],
    [`01-${TRACE}-${SPAN}-01`, 1],
    [`cc-${TRACE}-${SPAN}-01-what-the-future-will-be-like`, 1],
    [`fe-${TRACE}-${SPAN}-01-`, 1],
  ];
  for (const [text, flags] of valid) {
    t.same(parseTraceContext(text), { traceId: TRACE, spanId: SPAN, flags }, text);
  }
  const invalid = [
    '',
    'a',
    `ff-${TRACE}-${SPAN}-01`,
    `00-${'0'.repeat(32)}-${SPAN}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `00-${TRACE}-${SPAN}-01-more`,
    `00-${TRACE}-${SPAN}-01-`,
    `00-${TRACE}-${SPAN}-1`,
    `00-${TRACE}-${SPAN}`,
    `0-${TRACE}-${SPAN}-01`,
    `00-${TRACE.toUpperCase()}-${SPAN}-01`,
    `00-${TRACE.slice(1)}-${SPAN}-01`,
    `00-${TRACE}0-${SPAN}-01`,
    `00-${TRACE.replace('a', 'g')}-${SPAN}-01`,
    `00-${TRACE}-${SPAN}-0x`,
    `00_${TRACE}_${SPAN}_01`,
    `01-${TRACE}-${SPAN}-01.more`,
    `00-${TRACE}-${SPAN}-01, 00-${TRACE}-${SPAN}-01`,
    `cc-${TRACE}-${SPAN}-01-more, 00-${TRACE}-${SPAN}-01`,
    ` 00-${TRACE}-${SPAN}-01`,
    `00-${TRACE}-${SPAN}-01\n`,
  ];
  for (const text of invalid) t.equal(parseTraceContext(text), undefined, text);

  const parent = `00-${TRACE}-${SPAN}-01`;
  t.same(traceHeaders(parseTraceContext(parent, 'a=1,b=2') as never), {
    traceparent: parent,
    tracestate: 'a=1,b=2',
  });
  for (const state of ['', 'a='.padEnd(513, 'x'), 'a=\u00e9']) {
    t.same(traceHeaders(parseTraceContext(parent, state) as never), { traceparent: parent }, state);
  }
});

t.test(
  'a trace is continued for trusted proxies, in every line of the request',
  { buffered: true },
  async (t) => {
    const service = await startTestApp(t, { TRUSTED_PROXIES: '10.0.0.0/8,127.0.0.1' });
    const { token } = await service.issueKey();
    const traceparent = `00-${TRACE}-${SPAN}-01`;
    const linesOf = async (
      headers: Record<string, string>,
      remoteAddress: string,
      url = `${LIST}?cursor=x`,
    ) => {
      const { headers: answered } = await service.request('GET', url, { token, headers, remoteAddress });
      t.notMatch(JSON.stringify(answered), TRACE, 'it is not echoed');
      return service.logs.filter(({ request_id: id }) => id === answered['x-request-id']);
    };

    t.match(await linesOf({ traceparent }, '10.1.2.3'), [{ trace_id: TRACE, status: 400 }]);
    for (const [sent, from] of [
      [traceparent, '11.1.2.3'],
      ['00-x', '10.1.2.3'],
    ] as const) {
      const [line] = await linesOf({ traceparent: sent }, from);
      t.equal(line?.status, 400);
      t.notOk('trace_id' in (line ?? {}), `${sent} from ${from}`);
    }

    Object.assign(service.services.db, { query: () => Promise.reject(new Error('on purpose')) });
    const failed = await linesOf({ traceparent, 'x-request-id': 'mine' }, '10.1.2.3', LIST);
    t.same(
      failed.map(({ message, request_id: id, trace_id: trace }) => [message, id, trace]),
      [
        ['request failed', 'mine', TRACE],
        ['request completed', 'mine', TRACE],
      ],
    );

    const port = Number(new URL(await service.app.listen({ host: '127.0.0.1', port: 0 })).port);
    const bytes = `GET /%zz HTTP/1.1\r\nHost: a\r\nX-Request-Id: early\r\ntraceparent: ${traceparent}\r\n\r\n`;
    const [answer] = await send(port, bytes);
    t.equal(header(answer, 'x-request-id'), 'early');
    t.match(
      service.logs.filter((line) => line.request_id === 'early'),
      [{ status: 400, trace_id: TRACE }],
      'also without a route',
    );
    const [twice] = await send(
      port,
      `GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\ntraceparent: ${traceparent}\r\ntraceparent: ${traceparent}\r\n\r\n`,
    );
    const line = service.logs.find((found) => found.request_id === header(twice, 'x-request-id'));
    t.equal(line?.status, 404);
    t.notOk('trace_id' in (line ?? {}), 'two of them are none');
  },
);

t.test(
  'what is done for a request outside of its handler is told under its id as well',
  { buffered: true },
  async (t) => {
    const databaseUrl = await createDatabase(t);
    const service = await startTestApp(t, {
      DATABASE_URL: databaseUrl,
      DATABASE_URL_REPLICA: databaseUrl,
      REDIS_URL: 'redis://127.0.0.1:1',
      CACHE_TTL_SECONDS: '0.1',
    });
    const { token } = await service.issueKey();
    const lines = (message: RegExp) => service.logs.filter((line) => message.test(String(line.message)));

    const { id } = await service.issueKey();
    const revoked = await service.request('DELETE', `/v1/api-keys/${id}`, { token });
    t.match(lines(/could not be announced/), [{ request_id: revoked.headers['x-request-id'], keys: [id] }]);

    // example:start
    const earlier = lines(/could not be recorded/).length;
    const created = await service.request('POST', '/v1/orders', { token, body: newOrder() });
    const marked = lines(/could not be recorded/).slice(earlier);
    t.match(marked, [{ request_id: created.headers['x-request-id'] }]);

    const url = `/v1/orders/${created.json.id}`;
    await service.request('GET', url, { token });
    const { query } = service.services.db;
    Object.assign(service.services.db, {
      query: (asked: Query) =>
        asked.name === 'order_find'
          ? Promise.reject(new AppError('unavailable', 'on purpose'))
          : query(asked),
    });
    const asked: unknown[] = [];
    const told = /could not be refreshed|old value is served/;
    await until('a load behind an answer fails', async () => {
      const { status, headers } = await service.request('GET', url, { token });
      t.equal(status, 200);
      asked.push(headers['x-request-id']);
      return lines(told).length > 0;
    });
    t.ok(asked.includes(lines(told)[0]?.request_id));
    // example:end
  },
);

t.test('a call to another service', { buffered: true }, async (t) => {
  const { url, received } = await startOther(t);
  const metrics = createMetrics('test');
  const count = async (upstream: string) => {
    const text = await metrics.registry.getSingleMetricAsString('upstream_request_latency_seconds');
    return Number(new RegExp(`_count\\{upstream="${upstream}"\\} (\\d+)`).exec(text)?.[1]);
  };
  const other = createUpstream({ name: 'other', url: `${url}/base/`, timeoutMs: 5_000 }, metrics);
  t.equal(await count('other'), 0, 'is a series before the first');
  const trace = { traceId: TRACE, spanId: SPAN, flags: 1, state: 'a=1' };

  const response = await other.fetch({ id: 'request-1', trace }, '//evil.example/x?y', {
    method: 'POST',
    headers: { 'x-own': '1', traceparent: 'forged' },
    body: 'text',
  });

  t.equal(response.status, 418, 'any status is an answer');
  t.equal(received[0]?.url, '/base//evil.example/x?y', 'a path cannot lead to another host');
  t.match(received[0]?.headers, {
    'x-request-id': 'request-1',
    traceparent: `00-${TRACE}-${SPAN}-01`,
    tracestate: 'a=1',
    'x-own': '1',
  });
  await other.fetch({}, '/');
  t.notOk('traceparent' in (received[1]?.headers ?? {}));
  t.equal(await count('other'), 2);

  const slow = createUpstream({ name: 'slow', url, timeoutMs: 100 }, metrics);
  const gone = createUpstream({ name: 'gone', url: 'http://127.0.0.1:1', timeoutMs: 5_000 }, metrics);
  await t.rejects(slow.fetch({}, '/hang'), { code: 'timeout' });
  await t.rejects(gone.fetch({}, '/'), { code: 'unavailable', retryAfterSeconds: 2 });
  await t.rejects(other.fetch({}, '/redirect'), { code: 'unavailable' }, 'nor does a redirect');
  await t.rejects(slow.fetch({}, '/slow-body'), { code: 'timeout' }, 'a body is part of its call');
  await t.rejects(other.fetch({}, '/broken-body'), { code: 'unavailable' });
  t.same([await count('slow'), await count('gone')], [2, 1], 'failures are timed as well');
  const [empty, text] = [await other.fetch({}, '/empty'), await other.fetch({}, '/text')];
  t.same([empty.status, await empty.text()], [204, '']);
  t.same([await text.text(), text.headers.get('content-type')], ['a body', 'text/plain']);
});

async function startOther(t: Test) {
  const received: { url: string | undefined; headers: IncomingHttpHeaders }[] = [];
  const server = createServer((request, response) => {
    received.push({ url: request.url, headers: request.headers });
    if (request.url === '/hang') return;
    if (request.url?.endsWith('-body')) {
      response.writeHead(200, { 'content-length': '10' }).write('half');
      if (request.url.includes('broken')) setTimeout(() => response.destroy(), 50);
      return;
    }
    if (request.url?.endsWith('/empty')) response.writeHead(204).end();
    else if (request.url?.endsWith('/text'))
      response.writeHead(200, { 'content-type': 'text/plain' }).end('a body');
    else if (request.url?.endsWith('/redirect')) response.writeHead(302, { location: '/x' }).end();
    else response.writeHead(418).end();
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  t.teardown(() => {
    server.close();
    server.closeAllConnections();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, received };
}
