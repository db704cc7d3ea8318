import { once } from 'node:events';
import { createServer } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { startTestApp } from '../support/app.ts';
import { startCollector, type Span } from '../support/collector.ts';
import { createDatabase } from '../support/postgres.ts';
import { redisUrl } from '../support/redis.ts';
import { startService, type ServiceProcess } from '../support/service.ts';
import { until } from '../support/until.ts';

// Processes of their own; most of their time is waiting.
t.jobs = 3;

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const PARENT = '00f067aa0ba902b7';
const SERVER = 2;
const CLIENT = 3;
/** Stands wherever something must not be told. */
const CANARY = 'c4n4ry';

/** Told by the service on request: which files of these packages it has loaded. */
const MODULES = `data:text/javascript,${encodeURIComponent(`
  import { createRequire } from 'node:module';
  const { cache } = createRequire('file:///');
  process.on('message', (question) => {
    if (question === 'modules') process.send({ modules: Object.keys(cache).filter((file) => file.includes('@opentelemetry')) });
  });
`)}`;

async function loadedPackages({ child }: ServiceProcess): Promise<string[]> {
  child.send('modules');
  const [{ modules }] = (await once(child, 'message')) as [{ modules: string[] }];
  return [...new Set(modules.map((file) => /@opentelemetry[\\/][^\\/]+/.exec(file)?.[0] ?? file))];
}

async function startTraced(t: Test, env: Record<string, string>) {
  const databaseUrl = await createDatabase(t);
  const key = await (await startTestApp(t, { DATABASE_URL: databaseUrl })).issueKey();
  const service = await startService(t, { DATABASE_URL: databaseUrl, TRUSTED_PROXIES: '127.0.0.1', ...env }, [
    '--import',
    MODULES,
  ]);
  const ask = (method: string, path: string, headers: Record<string, string> = {}, body?: object) =>
    fetch(service.url + path, {
      method,
      headers: {
        authorization: `Bearer ${key.token}`,
        ...(body && { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body && { body: inTwoParts(JSON.stringify(body)), duplex: 'half' }),
    });
  return { ...service, key, ask };
}

/** The second part comes when the service waits for it: by an event of the connection, not of the request. */
async function* inTwoParts(text: string): AsyncGenerator<Buffer> {
  yield Buffer.from(text.slice(0, 5));
  await delay(100);
  yield Buffer.from(text.slice(5));
}

const lineOf = ({ logs }: { logs: Record<string, unknown>[] }, requestId: string) =>
  logs.find((line) => line.request_id === requestId);

t.test(
  'without an endpoint no package is loaded, and a trace goes on all the same',
  { buffered: true },
  async (t) => {
    const service = await startTraced(t, { OTEL_SERVICE_NAME: 'x', OTEL_TRACES_SAMPLER: 'always_on' });

    const traceparent = `00-${TRACE}-${PARENT}-01`;
    await service.ask('GET', '/v1/audit-events', { traceparent, 'x-request-id': 'traced' });
    await service.ask('GET', '/v1/audit-events', { 'x-request-id': 'untraced' });

    // prom-client brings the API, which does nothing without an SDK.
    t.same(await loadedPackages(service), ['@opentelemetry/api']);
    await until('both are in the log', () => lineOf(service, 'untraced') !== undefined);
    t.equal(lineOf(service, 'traced')?.trace_id, TRACE);
    t.notOk('trace_id' in (lineOf(service, 'untraced') ?? {}));
  },
);

t.test(
  'with an endpoint requests, statements and Redis commands become one trace',
  { buffered: true },
  async (t) => {
    const collector = await startCollector(t);
    const redis = await redisUrl(t);
    if (redis === undefined) return;
    const service = await startTraced(t, {
      REDIS_URL: redis,
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
      OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json',
      OTEL_EXPORTER_OTLP_HEADERS: `authorization=Bearer%20${CANARY}`,
      OTEL_BSP_SCHEDULE_DELAY: '50',
      OTEL_RESOURCE_ATTRIBUTES: 'deployment.environment.name=test',
    });
    const secret = { 'x-secret': CANARY, cookie: `session=${CANARY}`, 'user-agent': CANARY };

    const traceOf = async (
      method: string,
      path: string,
      { headers, body }: { headers?: Record<string, string>; body?: object } = {},
    ): Promise<{
      status: number;
      id: string;
      server: Span;
      clients: Span[];
      line: Record<string, unknown>;
    }> => {
      const response = await service.ask(method, path, { ...secret, ...headers }, body);
      await response.text();
      const id = response.headers.get('x-request-id') ?? '';
      await until(`${method} ${path} is in the log`, () => lineOf(service, id) !== undefined);
      const line = lineOf(service, id) ?? {};
      const inTrace = () => collector.spans.filter(({ traceId }) => traceId === line.trace_id);
      await until(`${method} ${path} is in a trace`, () => inTrace().some(({ kind }) => kind === SERVER));
      const server = inTrace().find(({ kind }) => kind === SERVER) as Span;
      return {
        status: response.status,
        id,
        server,
        clients: inTrace().filter(({ kind }) => kind === CLIENT),
        line,
      };
    };

    await t.test('the first request of a key', async (t) => {
      const { status, server, clients } = await traceOf('GET', `/v1/audit-events?limit=3&cursor=`, {});
      t.equal(status, 400);
      t.equal(server.name, 'GET /v1/audit-events');
      t.equal(server.parentSpanId, '');
      t.same(server.attributes, {
        'http.request.method': 'GET',
        'url.scheme': 'http',
        'http.route': '/v1/audit-events',
        'http.response.status_code': 400,
      });
      t.equal(server.status, 0, 'a refusal is no error of the server');
      t.match(server.resource, {
        'service.name': 'hardpoint',
        'service.version': /^\d/,
        'deployment.environment.name': 'test',
        'telemetry.sdk.language': 'nodejs',
      });
      const find = clients.find(({ name }) => name === 'api_key_find_stored');
      t.equal(find?.parentSpanId, server.spanId);
      t.match(find?.attributes, {
        'db.system.name': 'postgresql',
        'db.operation.name': 'SELECT',
        'db.query.summary': 'api_key_find_stored',
        'server.port': Number,
      });
    });

    await t.test('a trace from a trusted proxy goes on', async (t) => {
      const headers = { traceparent: `00-${TRACE}-${PARENT}-01`, tracestate: 'vendor=1' };
      const body = { name: CANARY, scopes: ['audit:read'] };
      const { status, server, clients, line } = await traceOf('POST', `/v1/api-keys?`, { headers, body });
      t.equal(status, 201);
      t.match(server, {
        traceId: TRACE,
        parentSpanId: PARENT,
        traceState: 'vendor=1',
        name: 'POST /v1/api-keys',
      });
      t.equal(line.trace_id, TRACE);
      const statements = clients.map(({ attributes }) => attributes['db.operation.name']).join();
      t.match(statements, 'BEGIN,INSERT,INSERT,COMMIT', 'also what runs after the body arrived');
      for (const { parentSpanId } of clients) t.equal(parentSpanId, server.spanId);
    });

    await t.test('Redis', async (t) => {
      const { id } = (await (
        await service.ask('POST', '/v1/api-keys', {}, { name: 'x', scopes: ['audit:read'] })
      ).json()) as {
        id: string;
      };
      const { status, server, clients } = await traceOf('DELETE', `/v1/api-keys/${id}`);
      t.equal(status, 204);
      const commands = clients.filter(({ attributes }) => attributes['db.system.name'] === 'redis');
      t.ok(commands.length > 0);
      for (const { name, attributes, parentSpanId, status: failed } of commands) {
        t.equal(parentSpanId, server.spanId);
        t.equal(name, attributes['db.operation.name']);
        t.same(Object.keys(attributes).toSorted(), [
          'db.namespace',
          'db.operation.name',
          'db.system.name',
          'server.address',
          'server.port',
        ]);
        t.equal(failed, 0);
      }
    });

    await t.test('an unsampled trace goes on unrecorded', async (t) => {
      const trace = '0'.repeat(31) + '1';
      const before = collector.requests.length;
      const response = await service.ask('GET', '/v1/audit-events', {
        traceparent: `00-${trace}-${PARENT}-00`,
      });
      const id = response.headers.get('x-request-id') ?? '';
      await until('it is in the log', () => lineOf(service, id) !== undefined);
      t.equal(lineOf(service, id)?.trace_id, trace);
      await traceOf('GET', '/v1/audit-events');
      t.ok(collector.requests.length > before);
      t.same(
        collector.spans.filter(({ traceId }) => traceId === trace),
        [],
      );
    });

    await t.test('an unknown URL has a span without route, a probe has none', async (t) => {
      await service.ask('GET', '/health/ready');
      const { status, server } = await traceOf('GET', `/nowhere/${CANARY}?key=${CANARY}`);
      t.equal(status, 404);
      t.equal(server.name, 'GET');
      t.notOk('http.route' in server.attributes);
      t.notOk(collector.spans.some(({ name }) => name.includes('health')));
      t.same(
        collector.spans.filter(({ kind, parentSpanId }) => kind === CLIENT && parentSpanId === ''),
        [],
        'nor has what runs by itself',
      );
    });

    await t.test('nothing but names and numbers is sent', async (t) => {
      const { headers, path } = collector.requests[0] ?? {};
      t.match(
        { path, headers },
        {
          path: '/v1/traces',
          headers: { 'content-type': 'application/json', authorization: `Bearer ${CANARY}` },
        },
      );
      const sent = collector.requests.map(({ body }) => body).join();
      for (const hidden of [CANARY, service.key.token, service.key.id])
        t.notOk(sent.includes(hidden), hidden);
      t.notMatch(sent, /select |insert |\?/i, 'no statement, no query string');
      t.notOk(JSON.stringify(service.logs).includes(CANARY));
    });
  },
);

t.test('what is pending is sent at shutdown, by default as protobuf', { buffered: true }, async (t) => {
  const collector = await startCollector(t);
  const service = await startTraced(t, {
    OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
    OTEL_EXPORTER_OTLP_COMPRESSION: 'gzip',
    OTEL_SERVICE_NAME: 'renamed',
  });
  const response = await service.ask('GET', '/v1/audit-events');
  await response.text();
  t.same(collector.requests, [], 'it is sent in batches');

  service.child.kill('SIGTERM');

  t.equal(await service.ended, 0);
  const server = collector.spans.find(({ kind }) => kind === SERVER);
  t.match(server, {
    traceId: /^[0-9a-f]{32}$/,
    name: 'GET /v1/audit-events',
    attributes: { 'http.response.status_code': 200 },
    resource: { 'service.name': 'renamed' },
  });
  const statements = collector.spans.filter(({ kind }) => kind === CLIENT);
  t.ok(statements.length >= 2);
  for (const { traceId, parentSpanId } of statements) {
    t.same([traceId, parentSpanId], [server?.traceId, server?.spanId]);
  }
  t.equal(collector.requests[0]?.headers['content-type'], 'application/x-protobuf');
});

t.test('a sampler is chosen as the SDK reads it', { buffered: true }, async (t) => {
  const collector = await startCollector(t);
  const service = await startTraced(t, {
    OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
    OTEL_TRACES_SAMPLER: 'parentbased_always_off',
  });
  await (await service.ask('GET', '/v1/audit-events')).text();
  await (await service.ask('GET', '/v1/audit-events', { traceparent: `00-${TRACE}-${PARENT}-01` })).text();

  service.child.kill('SIGTERM');

  t.equal(await service.ended, 0);
  t.same([...new Set(collector.spans.map(({ traceId }) => traceId))], [TRACE]);
});

t.test(
  'a collector that refuses or hangs costs no request, tells no secret, and holds no shutdown',
  async (t) => {
    const refusing = createServer((_request, response) => response.writeHead(401).end(`bad key ${CANARY}`));
    const hanging = createServer(() => undefined);
    const services = [];
    for (const server of [refusing, hanging]) {
      await once(server.listen(0, '127.0.0.1'), 'listening');
      t.teardown(() => {
        server.close();
        server.closeAllConnections();
      });
      const { port } = server.address() as { port: number };
      const service = await startTraced(t, {
        OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`,
        OTEL_EXPORTER_OTLP_HEADERS: `authorization=${CANARY}`,
        OTEL_BSP_SCHEDULE_DELAY: '50',
      });
      t.equal((await service.ask('GET', '/v1/audit-events')).status, 200);
      services.push(service);
    }
    const [refused, hung] = services as [(typeof services)[0], (typeof services)[0]];
    const complaint = () => refused.logs.find(({ message }) => message === 'tracing has a problem');
    await until('the refusal is told', () => complaint() !== undefined);
    t.match(complaint(), { level: 'warn', reason: /Unauthorized 401/ });

    for (const { child } of services) child.kill('SIGTERM');
    const start = Date.now();
    t.equal(await refused.ended, 0);
    t.equal(await hung.ended, 0);
    t.ok(Date.now() - start < 8_000);
    t.ok(hung.logs.some(({ part, message }) => part === 'tracing' && message === 'did not close in time'));
    for (const { logs } of services) t.notOk(JSON.stringify(logs).includes(CANARY));
  },
);
