import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { connect } from 'node:http2';
import { request as requestTls } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { ERROR_CODES } from '../../src/errors.ts';
import { CANARY, refuseLeaks } from '../support/canary.ts';
import { startNginx, type NginxAnswer } from '../support/nginx.ts';
import { send } from '../support/raw-http.ts';
import { until } from '../support/until.ts';

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

t.test('a client that is slow takes nothing that others need', async (t) => {
  let received = 0;
  let flushed = 0;
  const chunk = Buffer.alloc(2 ** 20);
  const edge = await startEdge(t, (request, response) => {
    request.on('data', ({ length }: Buffer) => (received += length));
    // Reads the key and no body, as the service does for a client that it does not know.
    if (request.url === '/unknown') response.writeHead(401).end();
    if (request.url !== '/large') return;
    const next = (): unknown =>
      flushed < 64 ? response.write(chunk, () => void ((flushed += 1), next())) : response.end();
    next();
  });
  if (!edge) return;
  const { httpsPort } = edge.nginx;
  const open = (path: string, method: string) => {
    const headers = { host: 'localhost', 'content-length': method === 'POST' ? '10000000' : '0' };
    const options = { host: '127.0.0.1', port: httpsPort, path, method, headers };
    const sent = requestTls({ ...options, servername: 'localhost', agent: false, rejectUnauthorized: false });
    sent.on('error', () => undefined);
    t.teardown(() => sent.destroy());
    return sent;
  };
  const slow = Array.from({ length: 26 }, () => open('/known', 'POST'));
  for (const sent of slow) sent.write(chunk);
  await until('the service has what they sent, and nginx nothing', () => received === 26 * chunk.length);

  const unknown = open('/unknown', 'POST');
  unknown.write(chunk);
  const [{ statusCode }] = await once(unknown, 'response');
  t.equal(statusCode, 401, 'before the body is there');

  const [reads] = await once(open('/large', 'GET').end(), 'response');
  let before = -1;
  await until('what fits on the way is sent', async () => {
    before = flushed;
    await delay(300);
    return flushed === before && flushed > 0;
  });
  t.ok(flushed < 64, `the rest waits in the service, not in nginx: ${flushed} of 64`);
  reads.resume();
  await until('all of it is sent', () => flushed === 64);
});

t.test('no log of nginx holds a key, a query or a Referer', async (t) => {
  const gone: Handler = ({ socket }) => void socket.destroy();
  const edge = await startEdge(t, gone);
  if (!edge) return;
  const { nginx } = edge;
  const key = `hp_live_000000000001_${CANARY}${'a'.repeat(33)}`;
  const headers = { authorization: `Bearer ${key}`, referer: `https://a.test/?key=${key}`, cookie: key };
  const targets = [`/v1/things?api_key=${key}`, `/v1/${key}`, `/v1/%68p_live_${key.slice(8)}/x?${key}`];
  for (const path of targets) {
    t.equal((await nginx.ask(path, { headers })).status, 502);
    t.equal((await nginx.ask(path, { headers, method: 'POST', body: CANARY.repeat(20_000) })).status, 502);
  }
  const id = '01234567-89ab-4cde-8f01-23456789abcd';
  await nginx.ask(`/v1/things/${id}/lines.csv?x=1`, { headers });
  for (const path of [`/metrics?${key}`, `/%2e%2e?${key}`, `/${'x'.repeat(9_000)}${key}`]) {
    await nginx.ask(path, { headers });
  }
  for (const line of [
    `GET /?${key} HTTP/1.1\r\nHost: a b\r\n\r\n`,
    `GET /${key}\r\n`,
    `${key} / HTTP/9\r\n\r\n`,
  ]) {
    await send(nginx.httpPort, line);
    await send(nginx.httpsPort, line);
  }
  await until('all are logged', () => nginx.accessLog().length >= 16);
  const paths = nginx.accessLog().map(({ path }) => path);
  for (const path of ['/v1/things', '/v1/…', `/v1/things/${id}/lines.csv`, '/metrics', '/…']) {
    t.ok(paths.includes(path), `${path} is among ${paths.join(' ')}`);
  }
  refuseLeaks([key], {
    'access log': JSON.stringify(nginx.accessLog()),
    'error log': readFileSync(join(nginx.folder, 'error.log'), 'utf8'),
  });
});

t.test('each line of the access log is JSON, also of clients that left', async (t) => {
  const edge = await startEdge(t, () => undefined);
  if (!edge) return;
  const { nginx } = edge;
  await send(nginx.httpPort, 'GET /\r\n');
  await send(nginx.httpPort, 'GET / HT', { hangUp: true });
  const leaves = nginx.ask('/v1/things', { timeoutMs: 200 });
  await t.rejects(leaves, 'it does not wait');
  await until('they are logged', () => nginx.accessLog().length >= 2);
  for (const { status } of nginx.accessLog()) t.type(status, 'number');
});

t.test('what nginx refuses is a problem, whichever server refuses it', async (t) => {
  const edge = await startEdge(t);
  if (!edge) return;
  const { httpPort, httpsPort } = edge.nginx;
  const cases: [port: number, request: string, status: number][] = [
    [httpPort, 'GET / HTTP/3.0\r\nHost: localhost\r\n\r\n', 505],
    [httpPort, 'GET / HTTP/1.1\r\n\r\n', 400],
    [httpPort, 'GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n', 501],
    [httpPort, `GET /${'x'.repeat(9_000)} HTTP/1.1\r\nHost: a\r\n\r\n`, 414],
    [httpPort, `GET / HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(9_000)}\r\n\r\n`, 431],
    [httpPort, 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n', 413],
    [httpPort, 'GET /.well-known/acme-challenge/none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n', 404],
    [httpPort, 'POST /.well-known/acme-challenge/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n', 404],
    // Without TLS, to the port that wants it.
    [httpsPort, 'GET / HTTP/1.1\r\nHost: foreign.test\r\nConnection: close\r\n\r\n', 403],
    [httpsPort, 'GET / HTTP/1.1\r\n\r\n', 400],
  ];
  for (const [port, text, status] of cases) {
    const [answer] = await send(port, text);
    const what = text.slice(0, 60).replaceAll('\r\n', ' | ');
    const { headers = [], body = '' } = answer ?? {};
    t.equal(answer?.status, status, what);
    t.equal(Object.fromEntries(headers)['content-type'], 'application/problem+json', what);
    const problem: Problem = JSON.parse(body.startsWith('{') ? body : '{}');
    t.equal(problem.status, status, what);
    t.ok(ERROR_CODES.includes(problem.code), `${what}: ${problem.code}`);
  }
  const mixed = await edge.nginx.ask('/', { headers: { host: 'foreign.test' } });
  isProblem(t, mixed, 421);
});

t.test('one connection of HTTP/2 may use all streams that it is told of', async (t) => {
  const held: ServerResponse[] = [];
  const edge = await startEdge(t, (_, response) => void held.push(response));
  if (!edge) return;
  const client = connect(`https://localhost:${edge.nginx.httpsPort}`, { rejectUnauthorized: false });
  t.teardown(() => client.destroy());
  const [{ maxConcurrentStreams = 0 }] = await once(client, 'remoteSettings');
  const streams = Array.from({ length: maxConcurrentStreams }, () =>
    client.request({ ':path': '/v1/things' }),
  );
  const statuses = streams.map(async (stream) => (await once(stream, 'response'))[0][':status']);
  await until('all are under way', () => held.length === maxConcurrentStreams);
  for (const response of held) response.end();
  t.same(new Set(await Promise.all(statuses)), new Set([200]));
});

t.test('too many connections of an address, and what is too large', async (t) => {
  const held: ServerResponse[] = [];
  const edge = await startEdge(t, (_, response) => void held.push(response));
  if (!edge) return;
  const open = Array.from({ length: 256 }, () => edge.nginx.ask('/v1/things'));
  await until('so many are under way', () => held.length === open.length);
  const refused = await edge.nginx.ask('/v1/things');
  isProblem(t, refused, 429);
  t.equal(refused.headers['retry-after'], '1');
  for (const response of held) response.end();
  t.ok((await Promise.all(open)).every(({ status }) => status === 200));

  isProblem(t, await edge.nginx.ask(`/${'x'.repeat(9_000)}`), 414);
  isProblem(t, await edge.nginx.ask('/', { headers: { 'x-long': 'x'.repeat(9_000) } }), 431);
  const large = { 'content-length': String(10 * 2 ** 20 + 1), expect: '100-continue' };
  isProblem(t, await edge.nginx.ask('/', { method: 'POST', headers: large }), 413);
  const smaller = await startNginx(t, [edge.port], { MAX_REQUEST_SIZE_MB: '0.5' });
  const half = (bytes: number) => ({ 'content-length': String(2 ** 19 + bytes), expect: '100-continue' });
  if (smaller) isProblem(t, await smaller.ask('/', { method: 'POST', headers: half(1) }), 413);
});
