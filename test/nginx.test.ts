import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ERROR_CODES } from '../src/errors.ts';
import { startNginx, type NginxAnswer } from './support/nginx.ts';
import { send } from './support/raw-http.ts';
import { until } from './support/until.ts';

/** As in the answers of nginx/conf.d/problems.conf. */
interface Problem {
  status: number;
  code: (typeof ERROR_CODES)[number];
  instance: string;
}

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

/** Of the service: counts what reaches it and answers what the test says. */
async function startReplica(t: Test, handler: Handler = (_, response) => response.end('ok')) {
  const seen: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    seen.push(request);
    handler(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.close();
    server.closeAllConnections();
  });
  return { port: (server.address() as AddressInfo).port, seen };
}

/** Undefined after the test was skipped for want of nginx. */
async function startEdge(t: Test, handler?: Handler) {
  const replica = await startReplica(t, handler);
  const nginx = await startNginx(t, [replica.port]);
  return nginx && { nginx, ...replica };
}

function isProblem(
  t: Test,
  { status, headers, body }: NginxAnswer,
  expected: number,
  what = 'its answer',
): void {
  t.equal(status, expected, what);
  t.equal(headers['content-type'], 'application/problem+json', what);
  const problem: Problem = JSON.parse(body);
  t.equal(problem.status, status, 'the body says what the status line says');
  t.ok(ERROR_CODES.includes(problem.code), `${problem.code} is a code of the service`);
  t.match(problem.instance, /^[0-9a-f]{32}$/);
  t.equal(headers['cache-control'], 'no-store', what);
}

t.test('internal paths are closed in every spelling', async (t) => {
  const edge = await startEdge(t);
  if (!edge) return;
  const paths = ['/metrics', '/metrics/', '//metrics', '/%6detrics', '/Metrics', '/metrics;x', '/metrics%2f'];
  paths.push(
    '/metrics?x=1',
    '/metrics%3b',
    '/api/../metrics',
    '/v1/metrics',
    '/api/v1/metrics',
    '/./metrics',
  );
  paths.push('/internal', '/internal/status', '/v1/%2e%2e/internal/status', '//internal//status');
  for (const path of paths) isProblem(t, await edge.nginx.ask(path), 404, path);
  t.same(edge.seen, [], 'none of them reached the service');
  t.equal((await edge.nginx.ask('/v1/metricsomething')).status, 200, 'others do');
});

t.test('unknown names get no handshake and no answer', async (t) => {
  const edge = await startEdge(t);
  if (!edge) return;
  const message = /unrecognized name/;
  await t.rejects(edge.nginx.ask('/', { servername: 'foreign.test' }), { message }, 'by SNI');
  const mixed = edge.nginx.ask('/', { headers: { host: 'foreign.test' } });
  t.ok(
    await mixed.then(
      ({ status }) => status === 421,
      () => true,
    ),
    'by Host',
  );
  t.same(edge.seen, []);
});

t.test('plain HTTP is refused and not redirected, but for ACME', async (t) => {
  const edge = await startEdge(t);
  if (!edge) return;
  const { httpPort, httpsPort, folder } = edge.nginx;
  for (const port of [httpPort, httpsPort]) {
    const [answer] = await send(
      port,
      'POST /v1/things HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n',
    );
    const headers = Object.fromEntries(answer?.headers ?? []);
    t.equal(answer?.status, 403);
    t.equal(headers['content-type'], 'application/problem+json');
    t.equal(headers.location, undefined);
    t.equal(JSON.parse(answer?.body ?? '').code, 'https_required');
  }
  mkdirSync(join(folder, 'acme/.well-known/acme-challenge'), { recursive: true });
  writeFileSync(join(folder, 'acme/.well-known/acme-challenge/token'), 'proof');
  const challenge = await fetch(`http://127.0.0.1:${httpPort}/.well-known/acme-challenge/token`);
  t.equal(await challenge.text(), 'proof');
  t.same(edge.seen, []);
});

t.test('what a client says of itself is overwritten', async (t) => {
  const edge = await startEdge(t);
  if (!edge) return;
  const forged = {
    'x-forwarded-for': '203.0.113.66',
    'x-forwarded-proto': 'http',
    'x-forwarded-host': 'evil.test',
  };
  const more = { 'x-real-ip': '203.0.113.66', forwarded: 'for=203.0.113.66', 'x-request-id': 'forged' };
  const trace = { traceparent: `00-${'1'.repeat(32)}-${'2'.repeat(16)}-01`, tracestate: 'a=b' };
  await edge.nginx.ask('/v1/things?secret=1', { headers: { ...forged, ...more, ...trace } });
  const [request] = edge.seen;
  const { 'x-forwarded-for': address, 'x-forwarded-proto': proto, host } = request?.headers ?? {};
  t.same([address, proto, host], ['127.0.0.1', 'https', 'localhost']);
  t.equal(request?.headersDistinct['x-forwarded-for']?.length, 1);
  for (const name of ['x-forwarded-host', 'x-real-ip', 'forwarded', 'traceparent', 'tracestate']) {
    t.equal(request?.headers[name], undefined, name);
  }
  const id = request?.headers['x-request-id'];
  await until('it is logged', () => edge.nginx.accessLog().length > 0);
  const [{ request_id, path, status, client } = {}] = edge.nginx.accessLog();
  t.same([request_id, path, status, client], [id, '/v1/things', 200, '127.0.0.1']);
});

t.test('a service that is gone is 502, and its own 503 passes and takes nobody out', async (t) => {
  let status = 503;
  const answer: Handler = ({ socket, url }, response) => {
    if (url === '/gone') socket.destroy();
    else response.writeHead(status, { 'retry-after': '7', 'cache-control': 'private' }).end('own');
  };
  // Of a single one nginx would never give up.
  const replicas = [await startReplica(t, answer), await startReplica(t, answer)];
  const nginx = await startNginx(
    t,
    replicas.map(({ port }) => port),
  );
  if (!nginx) return;
  for (let i = 0; i < 8; i++) {
    const { headers, body, ...own } = await nginx.ask('/v1/things');
    t.same([own.status, body], [503, 'own']);
    t.same([headers['retry-after'], headers['cache-control']], ['7', 'private'], 'as the service said it');
  }
  status = 200;
  for (let i = 0; i < 2; i++) t.equal((await nginx.ask('/v1/things')).status, 200, 'at once');
  const bad = await nginx.ask('/gone');
  isProblem(t, bad, 502);
  t.equal(bad.headers['retry-after'], '1');
  t.equal(bad.headers['strict-transport-security'], 'max-age=63072000; includeSubDomains', 'once');
});

t.test('a read is tried at the next replica, a write is not repeated', async (t) => {
  const cut = await startReplica(t, ({ socket }) => socket.destroy());
  const well = await startReplica(t);
  const nginx = await startNginx(t, [cut.port, well.port]);
  if (!nginx) return;
  // One of the two gets it, whoever is first.
  const statuses = [
    await nginx.ask('/v1/things', { method: 'POST', body: '{}' }),
    await nginx.ask('/v1/things', { method: 'POST', body: '{}' }),
  ].map(({ status }) => status);
  t.same(statuses.toSorted(), [200, 502]);
  t.equal(cut.seen.length + well.seen.length, 2, 'each was sent once');
  for (let i = 0; i < 4; i++) t.equal((await nginx.ask('/v1/things')).status, 200);
  t.ok(cut.seen.length >= 2, 'also those that began at the other one');
});

t.test('too many connections of an address, and what is too large', async (t) => {
  const held: ServerResponse[] = [];
  const edge = await startEdge(t, (_, response) => void held.push(response));
  if (!edge) return;
  const open = Array.from({ length: 100 }, () => edge.nginx.ask('/v1/things'));
  await until('a hundred are under way', () => held.length === 100);
  const refused = await edge.nginx.ask('/v1/things');
  isProblem(t, refused, 429);
  t.equal(refused.headers['retry-after'], '1');
  for (const response of held) response.end();
  t.ok((await Promise.all(open)).every(({ status }) => status === 200));

  isProblem(t, await edge.nginx.ask(`/${'x'.repeat(9_000)}`), 414);
  isProblem(t, await edge.nginx.ask('/', { headers: { 'x-long': 'x'.repeat(9_000) } }), 431);
  const large = { 'content-length': String(10 * 2 ** 20 + 1), expect: '100-continue' };
  isProblem(t, await edge.nginx.ask('/', { method: 'POST', headers: large }), 413);
});
