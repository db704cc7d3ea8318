import helmet from '@fastify/helmet';
import { fastify, type FastifyRequest } from 'fastify';
import { AsyncLocalStorage } from 'node:async_hooks';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { createTrust } from '../../src/http/client-address.ts';
import { SECURITY_HEADERS } from '../../src/http/security-headers.ts';
import { createRequestIds } from '../../src/http/request-id.ts';
import type { Db, Query } from '../../src/postgres/postgres.ts';
import { startTestApp, type TestApp } from '../support/app.ts';
import { createDatabase, withClient } from '../support/postgres.ts';
import { header, send, type RawAnswer } from '../support/raw-http.ts';
import { until } from '../support/until.ts';

/** Some key; whether there is one does not matter here. */
const ONE = '/v1/api-keys/000000000001';
const LIST = '/v1/audit-events';

/** The port on which the app listens from now on. */
async function listen({ app }: TestApp): Promise<number> {
  return Number(new URL(await app.listen({ host: '127.0.0.1', port: 0 })).port);
}

/** What reading one key does from now on, in place of asking Postgres. */
function onRead({ services }: TestApp, read: () => Promise<unknown>): void {
  const query = original.get(services.db) ?? services.db.query;
  original.set(services.db, query);
  Object.assign(services.db, {
    query: (asked: Query) => (asked.name === 'api_key_find' ? read() : query(asked)),
  });
}

const original = new WeakMap<Db, Db['query']>();
/** Rows. */
const NOTHING: object[] = [];

function get(path: string, ...headers: string[]): string {
  return `${[`GET ${path} HTTP/1.1`, 'Host: a', 'Connection: close', ...headers].join('\r\n')}\r\n\r\n`;
}

function problemOf(answer: RawAnswer | undefined) {
  const problem = JSON.parse(answer?.body ?? '{}');
  return { status: answer?.status, code: problem.code, instance: problem.instance };
}

const nameOf = (request: FastifyRequest) => (request.params as { name?: string }).name ?? '';

const completed = ({ logs }: TestApp) => logs.filter((line) => line.endpoint !== undefined);

t.test('timeouts', async (t) => {
  const receive = { headersTimeoutMs: 300, requestTimeoutMs: 600 };
  // Node looks for late requests once a second.
  const withinMs = { headers: 300 + 1_000 + 700, body: 600 + 1_000 + 700 };
  const service = await startTestApp(t, {}, { receive });
  const port = await listen(service);
  const auth = `Authorization: Bearer ${(await service.issueKey()).token}`;
  const seconds = 1.8;
  onRead(service, () => delay(seconds * 1000).then(() => NOTHING));

  const timed = async (bytes: string[]) => {
    const start = performance.now();
    const answers = await send(port, bytes);
    return { answers, ms: performance.now() - start };
  };
  const head = `POST /v1/api-keys HTTP/1.1\r\nHost: a\r\n${auth}\r\nContent-Type: application/json\r\n`;
  const [silent, slowHeaders, slowBody, slowChunks, slowAnswer] = await Promise.all([
    timed([]),
    timed(['GET /health/live HTTP/1.1\r\nHost: a\r\n']),
    timed([`${head}Content-Length: 100\r\n\r\n{"name":`]),
    timed([`${head}Transfer-Encoding: chunked\r\n\r\n2\r\n{"\r\n`]),
    timed([get(ONE, auth)]),
  ]);

  t.test('a client that is slow with its headers is told 408 and cut off in time', async (t) => {
    for (const { answers, ms } of [silent, slowHeaders]) {
      t.match(problemOf(answers[0]), { status: 408, code: 'request_timeout' });
      t.ok(ms < withinMs.headers, `${ms} ms`);
    }
  });

  t.test('a client that is slow with its body is told 408, under the id of its one log line', async (t) => {
    for (const { answers, ms } of [slowBody, slowChunks]) {
      const { instance, ...problem } = problemOf(answers[0]);
      t.same(problem, { status: 408, code: 'request_timeout' });
      t.equal(header(answers[0], 'x-request-id'), instance);
      t.equal(answers.length, 1);
      t.ok(ms < withinMs.body, `${ms} ms`);
      const lines = service.logs.filter((line) => line.request_id === instance);
      t.match(lines, [{ method: 'POST', endpoint: '/v1/api-keys', status: 408 }]);
      t.equal(lines.length, 1);
    }
    t.equal(await service.metric('api_requests_in_flight'), 0);
  });

  t.test('the time for receiving a request is not the time for answering it', async (t) => {
    t.match(problemOf(slowAnswer.answers[0]), { status: 404, code: 'not_found' });
    t.ok(slowAnswer.ms >= seconds * 1000 - 50, `${slowAnswer.ms} ms`);
  });

  t.test('nothing of it is an error of the service', async (t) => {
    t.same(
      service.logs.filter((line) => line.level !== 'info'),
      [],
    );
  });
});

t.test('a request that takes longer than REQUEST_TIMEOUT_SECONDS is answered 504', async (t) => {
  const limits = {
    REQUEST_TIMEOUT_SECONDS: '0.3',
    QUERY_TIMEOUT_SECONDS: '0.2',
    POOL_WAIT_TIMEOUT_MS: '190',
  };
  const service = await startTestApp(t, limits);
  const { token } = await service.issueKey();
  let release: (found: unknown) => void = () => {};
  onRead(service, () => new Promise((resolve) => (release = resolve)));

  const start = performance.now();
  const { status, json } = await service.request('GET', ONE, { token });
  const ms = performance.now() - start;
  release(NOTHING);

  t.match({ status, json }, { status: 504, json: { status: 504, code: 'timeout' } });
  t.ok(ms >= 250 && ms < 1_000, `${ms} ms`);
  await until('the request is in the log', () => completed(service).length > 0);
  t.match(completed(service), [{ status: 504, request_id: json.instance }]);
});

t.test('a late request gets one response, whatever its hooks and its stream do', async (t) => {
  const streams: Readable[] = [];
  let ended = 0;
  const service = await startTestApp(
    t,
    { REQUEST_TIMEOUT_SECONDS: '0.3', QUERY_TIMEOUT_SECONDS: '0.2', POOL_WAIT_TIMEOUT_MS: '190' },
    {
      routes(app) {
        const streamOf = (...chunks: string[]) => {
          const stream = new Readable({ read() {} });
          for (const chunk of chunks) stream.push(chunk);
          streams.push(stream);
          return stream;
        };
        app.addHook('onSend', async (request) => {
          const isHook = request.url.startsWith('/test/hook/');
          await delay(isHook ? 900 : 150);
          if (isHook) ended += 1;
        });
        app.get('/test/never/:name', () => new Promise(() => {}));
        app.get('/test/late/:name', async (request, reply) => {
          reply.header('content-encoding', 'gzip');
          await delay(600);
          ended += 1;
          return nameOf(request);
        });
        app.get('/test/fails/:name', async () => {
          await delay(600);
          ended += 1;
          throw new Error('late');
        });
        app.get('/test/hook/:name', async (request) => nameOf(request));
        app.get('/test/silent/:name', (_request, reply) => reply.send(streamOf()));
        app.get('/test/begun/:name', (_request, reply) => reply.send(streamOf('first')));
      },
    },
  );
  const port = await listen(service);
  const logged = (level: string, id: string) =>
    service.logs.filter((line) => line.level === level && line.request_id === id);

  t.test('504 as a problem, if nothing was sent', async (t) => {
    const paths = ['never', 'late', 'fails', 'hook', 'silent'];
    const all = await Promise.all(paths.map((path) => send(port, get(`/test/${path}/a`))));
    await until('the work has ended', () => ended === 3 && streams.every(({ destroyed }) => destroyed));
    for (const [index, answers] of all.entries()) {
      const path = paths[index] ?? '';
      t.equal(answers.length, 1, path);
      const { instance, ...problem } = problemOf(answers[0]);
      t.same(problem, { status: 504, code: 'timeout' }, path);
      t.equal(header(answers[0], 'content-type'), 'application/problem+json; charset=utf-8', path);
      t.equal(header(answers[0], 'content-encoding'), undefined, path);
      t.equal(header(answers[0], 'x-request-id'), instance, path);
      t.equal(header(answers[0], 'x-content-type-options'), 'nosniff', path);
      t.match(logged('info', instance), [{ status: 504 }], path);
      const told = logged('error', instance).filter(({ message }) => message === 'request failed');
      t.equal(told.length, 1, `${path}: told once`);
    }
    t.equal(await service.metric('api_errors_total{code="timeout"}'), paths.length, 'counted once');
    t.equal(await service.metric('api_errors_total{code="internal"}'), 0);
    t.equal(streams.length, 1);
  });

  t.test('a stream that has begun is cut', async (t) => {
    const answer = await fetch(`http://127.0.0.1:${port}/test/begun/a`);
    t.equal(answer.status, 200);
    await t.rejects(answer.text(), 'the client sees that it is not whole');
    const id = answer.headers.get('x-request-id') ?? '';
    await until('the request is in the log', () => logged('info', id).length > 0);
    t.match(logged('info', id), [{ status: 504 }]);
    t.match(logged('error', id), [{ message: 'request failed', code: 'timeout' }]);
    await until('the stream is closed', () => streams.at(-1)?.destroyed === true);
  });
});

t.test('responses over real sockets', async (t) => {
  const context = new AsyncLocalStorage<string>();
  const stores: { name: string; hook: string; store: string | undefined }[] = [];
  const record = (hook: string, request: FastifyRequest) =>
    stores.push({ name: nameOf(request), hook, store: context.getStore() });
  const written: boolean[] = [];
  let waiting: (() => void)[] = [];
  const service = await startTestApp(
    t,
    {},
    {
      routes(app) {
        app.addHook('onRequest', (request, _reply, done) => context.run(nameOf(request), done));
        app.addHook('onSend', async (request) => void record('onSend', request));
        app.addHook('onResponse', (request, _reply, done) => {
          record('onResponse', request);
          done();
        });
        app.get('/test/delayed/:name', async (request) => {
          await delay(20 * Math.random());
          return nameOf(request);
        });
        app.get('/test/held/:name', async (request, reply) => {
          await new Promise<void>((release) => waiting.push(release));
          reply.raw.end(nameOf(request) === 'broken' ? 42 : nameOf(request));
          // What Node has taken for the socket, whether the kernel has it or not.
          written.push((reply.raw.socket?.bytesWritten ?? 0) > 0);
          return reply;
        });
      },
    },
  );
  const port = await listen(service);
  const held = async (names: string[]) => {
    waiting = [];
    const answers = names.map((name) => send(port, get(`/test/held/${name}`)));
    await until('all handlers wait', () => waiting.length === names.length);
    for (const release of waiting) release();
    return (await Promise.all(answers)).flat();
  };

  t.test('each belongs to the async context of its request, from the first hook to the last', async (t) => {
    for (const path of ['held', 'delayed']) {
      stores.length = 0;
      const names = ['a', 'b', 'c', 'd', 'e'].map((name) => `${path}-${name}`);
      const answers =
        path === 'held'
          ? await held(names)
          : (await Promise.all(names.map((name) => send(port, get(`/test/delayed/${name}`))))).flat();
      t.same(
        answers.map(({ status }) => status),
        names.map(() => 200),
      );
      const responses = () => stores.filter(({ hook }) => hook === 'onResponse');
      await until('all hooks have run', () => responses().length === names.length);
      t.same(
        stores.filter(({ name, store }) => name !== store),
        [],
      );
    }
  });

  t.test('each is written when it ends, and does not wait for others', async (t) => {
    written.length = 0;
    await held(['a', 'b', 'c']);
    t.same(written, [true, true, true]);
  });

  t.test('a write that throws fails its own request only', async (t) => {
    const answers = await held(['a', 'broken', 'b']);
    t.same(
      answers.map(({ status }) => status),
      [200, 500, 200],
    );
    t.match(problemOf(answers[1]), { status: 500, code: 'internal' });
    t.equal((await service.request('GET', '/health/live')).status, 200, 'the process lives');
  });

  t.test('a client that leaves harms no other', async (t) => {
    waiting = [];
    const leaves = connect(port, '127.0.0.1');
    leaves.write(get('/test/held/leaves'));
    const stays = send(port, get('/test/held/stays'));
    await until('both handlers wait', () => waiting.length === 2);
    leaves.destroy();
    for (const release of waiting) release();
    t.match(await stays, [{ status: 200 }]);
  });

  t.test('pipelined requests are answered in their order', async (t) => {
    const names = Array.from({ length: 20 }, (_, index) => `n${index}`);
    const bytes = names.map((name, index) => {
      const request = get(`/test/delayed/${name}`);
      return index === names.length - 1 ? request : request.replace('Connection: close\r\n', '');
    });
    const answers = await send(port, bytes.join(''));
    t.same(
      answers.map(({ status, body }) => [status, body]),
      names.map((name) => [200, name]),
    );
  });

  t.test('a burst over many connections is answered in full, each with its own', async (t) => {
    const names = Array.from({ length: 100 }, (_, index) => `n${index}`);
    const answers = await Promise.all(names.map((name) => send(port, get(`/test/delayed/${name}`))));
    t.same(
      answers.map((each) => each.map(({ status, body }) => [status, body])),
      names.map((name) => [[200, name]]),
    );
  });
});

t.test('what clients leave out, spell otherwise or ask in another way', async (t) => {
  const service = await startTestApp(
    t,
    { DOCS_ENABLED: 'true' },
    {
      routes(app) {
        for (const url of ['/test/a/:invoice_id', '/test/:year2/b', '/test/c/:id(^\\d+$)', '/test/d/*'])
          app.get(url, () => '');
        app.get('/test/e/:from-:to', () => '');
      },
    },
  );
  const port = await listen(service);
  const auth = `Authorization: Bearer ${(await service.issueKey()).token}`;
  const json = 'Content-Type: application/json';
  const as = (method: string, bytes: string) => bytes.replace('GET', method);
  const ask = async (bytes: string) => (await send(port, bytes))[0];
  const body = JSON.stringify({ name: 'x', scopes: ['audit:read'] });
  const length = `Content-Length: ${body.length}`;

  t.test('a type without a body is no fault where no body is needed', async (t) => {
    for (const headers of [[], ['Content-Length: 0'], ['Transfer-Encoding: chunked']]) {
      const { id } = await service.issueKey();
      const end = headers[0]?.startsWith('Transfer') ? '0\r\n\r\n' : '';
      const remove = as('DELETE', get(`/v1/api-keys/${id}`, auth, json, ...headers)) + end;
      t.equal((await ask(remove))?.status, 204, `DELETE ${headers.join()}`);
      for (const type of [[json], []]) {
        const answer = await ask(as('POST', get('/v1/api-keys', auth, ...type, ...headers)) + end);
        if (end && type.length === 0) continue;
        t.equal(answer?.status, 400, `POST ${headers.join()}`);
        t.match(JSON.parse(answer?.body ?? '').detail, /takes a JSON body/);
      }
    }
    t.equal((await ask(get(LIST, auth, 'Content-Type: text/csv; charset=latin1')))?.status, 200);
  });

  t.test('UTF-8 may be spelled in every way', async (t) => {
    for (const charset of ['utf8', 'UTF8', 'Utf-8', '"utf-8"', '"UTF8"', 'us-ascii']) {
      const type = `Content-Type: application/json; charset=${charset}`;
      const answer = await ask(as('POST', get('/v1/api-keys', auth, type, length)) + body);
      t.equal(answer?.status, 201, charset);
    }
  });

  t.test('a 304 has no length of its own', async (t) => {
    const etag = header(await ask(get('/openapi.json')), 'etag');
    for (const method of ['GET', 'HEAD']) {
      const answer = await ask(as(method, get('/openapi.json', `If-None-Match: ${etag}`)));
      t.equal(answer?.status, 304, method);
      t.equal(header(answer, 'content-length'), undefined, method);
    }
    const head = await service.request('HEAD', '/openapi.json');
    t.ok(Number(head.headers['content-length']) > 0, 'that of a 200 is told');
  });

  t.test('a wrong method is 405 with Allow, whatever parameters are called', async (t) => {
    for (const url of [
      '/test/a/1',
      '/test/2026/b',
      '/test/c/12',
      '/test/d/x/y',
      '/test/e/1-2',
      '/docs/x.js',
    ]) {
      const answer = await ask(as('PUT', get(url)));
      t.equal(answer?.status, 405, url);
      t.equal(header(answer, 'allow'), 'GET, HEAD', url);
      t.equal((await ask(as('PUT', get(`http://a${url}?x=1`))))?.status, 405, `http://a${url}`);
    }
    for (const url of ['/test/c/x', '/test/a/1/2', '/test/a']) {
      t.equal((await ask(as('PUT', get(url))))?.status, 404, url);
    }
  });
});

t.test('request ids', async (t) => {
  const service = await startTestApp(t, { TRUSTED_PROXIES: '10.0.0.0/8,::1,127.0.0.1' });
  const port = await listen(service);

  t.test('only a trusted proxy may choose one, and only a harmless one', async (t) => {
    const table: [sent: string, from: string, accepted: boolean][] = [
      ['abc.DEF_123-x', '10.1.2.3', true],
      ['abc', '::ffff:10.1.2.3', true],
      ['abc', '::1', true],
      ['a'.repeat(64), '10.1.2.3', true],
      ['abc', '11.1.2.3', false],
      ['abc', '2001:db8::1', false],
      ['a'.repeat(65), '10.1.2.3', false],
      ['', '10.1.2.3', false],
      ['a b', '10.1.2.3', false],
      ['a\u00e9', '10.1.2.3', false],
      ['%0a{"level":60}', '10.1.2.3', false],
      ['<script>', '10.1.2.3', false],
    ];
    for (const [sent, remoteAddress, accepted] of table) {
      const { headers } = await service.request('GET', LIST, {
        headers: { 'x-request-id': sent },
        remoteAddress,
      });
      t.equal(headers['x-request-id'] === sent, accepted, `${sent} from ${remoteAddress}`);
      t.match(headers['x-request-id'], /^[A-Za-z0-9._-]{1,64}$/);
    }
    const [twice] = await send(port, get(LIST, 'X-Request-Id: a', 'X-Request-Id: b'));
    t.match(header(twice, 'x-request-id'), /^[A-Za-z0-9._-]{3,64}$/);
  });

  t.test(
    'each request has one of its own, in its answer and in its log line, whatever the status',
    async (t) => {
      const { token } = await service.issueKey();
      const auth = `Authorization: Bearer ${token}`;
      const requests: [status: number, bytes: string][] = [
        [200, get(LIST, auth)],
        [401, get(LIST)],
        [404, get('/nowhere')],
        [405, get(LIST, auth).replace('GET', 'PUT')],
        [400, get('/v1/api-keys/%zz')],
        [414, get(`/v1/api-keys/${'a'.repeat(300)}`)],
        [400, 'garbage\r\n\r\n'],
        [431, get(LIST, `X-A: ${'a'.repeat(17_000)}`)],
      ];
      const ids = new Set<string | undefined>();
      for (const [status, bytes] of requests) {
        const [answer] = await send(port, bytes);
        const id = header(answer, 'x-request-id');
        t.equal(answer?.status, status);
        t.same(
          service.logs.filter((line) => line.request_id === id).map((line) => line.status),
          [status],
        );
        ids.add(id);
      }
      t.equal(ids.size, requests.length);
      t.notOk(ids.has(undefined));
    },
  );

  t.test('a connection that is gone already does no harm', async (t) => {
    const gone = { headers: { 'x-request-id': 'abc' }, socket: {} } as unknown as IncomingMessage;
    t.not(createRequestIds(createTrust(['10.0.0.0/8'])).of(gone), 'abc');
  });
});

t.test('X-Forwarded-For is believed of TRUSTED_PROXIES alone, and from the right', async (t) => {
  const [direct, behind] = await Promise.all([
    startTestApp(t),
    startTestApp(t, { TRUSTED_PROXIES: '10.0.0.0/8' }),
  ]);
  const addressOf = async (service: TestApp, remoteAddress: string, forwardedFor: string) => {
    const { token } = await service.issueKey();
    const headers = { 'x-forwarded-for': forwardedFor };
    const body = { name: 'x', scopes: ['audit:read'] };
    await service.request('POST', '/v1/api-keys', { token, headers, remoteAddress, body });
    return (await service.request('GET', '/v1/audit-events?limit=1', { token })).json.data[0].ip;
  };

  t.equal(await addressOf(direct, '203.0.113.9', '192.0.2.1'), '203.0.113.9');
  t.equal(await addressOf(direct, '127.0.0.1', '192.0.2.1'), '127.0.0.1');
  t.equal(await addressOf(behind, '10.0.0.1', '192.0.2.1'), '192.0.2.1');
  t.equal(
    await addressOf(behind, '10.0.0.1', '198.51.100.7, 192.0.2.1'),
    '192.0.2.1',
    'the left one is the client’s',
  );
  t.equal(await addressOf(behind, '10.0.0.1', '192.0.2.1, 10.0.0.2'), '192.0.2.1', 'two proxies');
  t.equal(await addressOf(behind, '203.0.113.9', '192.0.2.1'), '203.0.113.9');
});

t.test('an address is one client, whatever a trusted proxy writes around it', async (t) => {
  const service = await startTestApp(t, {
    TRUSTED_PROXIES: '127.0.0.1,10.0.0.0/8,fd00::/8',
    AUTH_FAILURES_PER_MINUTE: '5',
  });
  const url = await service.app.listen({ host: '127.0.0.1', port: 0 });
  const ask = (forwardedFor: string) => fetch(url + LIST, { headers: { 'x-forwarded-for': forwardedFor } });

  for (const spell of [
    (i: number) => `203.0.113.2:${40_000 + i}`,
    (i: number) => `[2001:db8::1]:${443 + i}`,
    (i: number) => `203.0.113.3:${40_000 + i}, 10.0.0.${i}:99, [fd00::${i}]:443`,
    (i: number) => ['::ffff:203.0.113.4', '203.0.113.4', '[::FFFF:cb00:7104]:1', '"203.0.113.4"'][i % 4]!,
    (i: number) => ['2001:db8:1::1', '2001:DB8:1:0:0::1', '[2001:db8:1::1%eth0]'][i % 3]!,
  ]) {
    const statuses: number[] = [];
    for (let i = 1; i <= 12; i++) statuses.push((await ask(spell(i))).status);
    t.same(statuses, [...Array(5).fill(401), ...Array(7).fill(429)], spell(1));
  }

  const { token } = await service.issueKey();
  const authorization = `Bearer ${token}`;
  for (const [sent, address] of [
    ['203.0.113.2:40001', '203.0.113.2'],
    ['[2001:db8::1]:443', '2001:db8::1'],
    ['[2001:DB8:0:0::1]', '2001:db8::1'],
    ['::ffff:203.0.113.2', '203.0.113.2'],
    ['198.51.100.7, 203.0.113.2:40001, 10.0.0.7:55', '203.0.113.2'],
    ['unknown', '127.0.0.1'],
    ['203.0.113.2:40001, unknown, 10.0.0.7', '10.0.0.7'],
    ['_hidden:80', '127.0.0.1'],
    ['', '127.0.0.1'],
  ] as const) {
    const body = JSON.stringify({ name: 'x', scopes: ['audit:read'] });
    const headers = { authorization, 'content-type': 'application/json' };
    const made = await fetch(`${url}/v1/api-keys`, {
      method: 'POST',
      body,
      headers: { ...headers, 'x-forwarded-for': sent },
    });
    t.equal(made.status, 201);
    const { json } = await service.request('GET', '/v1/audit-events?limit=1', { token });
    t.equal(json.data[0].ip, address, sent);
  }
});

t.test('a forged X-Forwarded-For opens no further attempts', async (t) => {
  const service = await startTestApp(t, { AUTH_FAILURES_PER_MINUTE: '3' });
  const statuses: number[] = [];

  for (let i = 0; i < 6; i++) {
    const headers = { 'x-forwarded-for': `192.0.2.${i}` };
    statuses.push((await service.request('GET', LIST, { headers })).status);
  }

  t.same(statuses, [401, 401, 401, 429, 429, 429]);
});

t.test('with ENFORCE_HTTPS a request must have come to a trusted proxy by TLS', async (t) => {
  const service = await startTestApp(t, { ENFORCE_HTTPS: 'true', TRUSTED_PROXIES: '10.0.0.1' });
  const { token } = await service.issueKey();
  const ask = async (remoteAddress: string, proto?: string, url = LIST) => {
    const headers = proto === undefined ? {} : { 'x-forwarded-proto': proto };
    const { status, json } = await service.request('GET', url, { token, headers, remoteAddress });
    return json.code ?? status;
  };

  t.equal(await ask('10.0.0.1', 'https'), 200);
  t.equal(await ask('10.0.0.1', 'http'), 'https_required');
  t.equal(await ask('10.0.0.1'), 'https_required');
  t.equal(await ask('203.0.113.9', 'https'), 'https_required', 'anybody can write this header');
  t.equal(await ask('203.0.113.9', undefined, '/nowhere'), 'https_required');
  t.equal(await ask('203.0.113.9', undefined, '/health/live'), 200, 'probes come inside the cluster');
});

t.test('security headers', async (t) => {
  const service = await startTestApp(t, { CORS_ORIGINS: 'https://app.example.com' });
  const port = await listen(service);
  const auth = `Authorization: Bearer ${(await service.issueKey()).token}`;
  const body = JSON.stringify({ name: 'x', scopes: ['audit:read'] });
  const post = [`Content-Length: ${body.length}`, 'Content-Type: application/json', auth];
  const answers: [status: number, bytes: string][] = [
    [200, get(LIST, auth)],
    [201, get('/v1/api-keys', ...post).replace('GET', 'POST') + body],
    [200, get('/health/ready')],
    [200, get('/openapi.json')],
    [
      204,
      get(LIST, 'Origin: https://app.example.com', 'Access-Control-Request-Method: PATCH').replace(
        'GET',
        'OPTIONS',
      ),
    ],
    [400, get(`${LIST}?surplus=1`, auth)],
    [400, get('/%zz')],
    [400, 'garbage\r\n\r\n'],
    [401, get(LIST)],
    [404, get('/nowhere')],
    [404, get('/v1/nowhere', auth)],
    [405, get(LIST, auth).replace('GET', 'PUT')],
    [406, get(LIST, auth, 'Accept: text/html')],
    [414, get(`/v1/api-keys/${'a'.repeat(300)}`, auth)],
    [431, get(LIST, `X-A: ${'a'.repeat(17_000)}`)],
    [500, get(ONE, auth)],
  ];
  const expected = [
    ['content-security-policy', "default-src 'none';frame-ancestors 'none'"],
    ['referrer-policy', 'no-referrer'],
    ['x-content-type-options', 'nosniff'],
    ['x-frame-options', 'DENY'],
  ];
  onRead(service, () => Promise.reject(new Error('on purpose')));

  t.test('are on every answer, each once, and none tells what runs here', async (t) => {
    const names = /^(content-security-policy|referrer-policy|x-content-type-options|x-frame-options)$/;
    for (const [status, bytes] of answers) {
      const [answer] = await send(port, bytes);
      const what = `${status} ${bytes.slice(0, 30).split('\r')[0]}`;
      t.equal(answer?.status, status, what);
      t.same(answer?.headers.filter(([name]) => names.test(name)).toSorted(), expected, what);
      const all = answer?.headers.map(([name]) => name) ?? [];
      t.equal(new Set(all).size, all.length, `${what}: no header twice`);
      t.notMatch(all.join(' '), /server|powered|strict-transport/, what);
    }
  });

  t.test('are those of helmet', async (t) => {
    const app = fastify();
    const directives = { 'default-src': ["'none'"], 'frame-ancestors': ["'none'"] };
    await app.register(helmet, {
      contentSecurityPolicy: { useDefaults: false, directives },
      xFrameOptions: { action: 'deny' },
    });
    app.get('/', () => '');
    const { headers } = await app.inject('/');
    t.match(headers, SECURITY_HEADERS);
    await app.close();
  });

  t.test('what a key can read is for no cache', async (t) => {
    for (const [status, bytes] of answers) {
      if (!bytes.includes('/v1/') || status === 204) continue;
      t.equal(header((await send(port, bytes))[0], 'cache-control'), 'no-store', bytes.slice(0, 30));
    }
  });
});

t.test('CORS', async (t) => {
  const allowed = ['https://app.example.com', 'https://admin.example.com:8443'];
  const [service, closed] = await Promise.all([
    startTestApp(t, { CORS_ORIGINS: allowed.join(), CORS_ALLOWED_HEADERS: 'X-Client-Version, x-other' }),
    startTestApp(t),
  ]);

  t.test('opens for exactly the listed origins', async (t) => {
    const table: [origin: string | undefined, open: boolean][] = [
      ['https://app.example.com', true],
      ['https://admin.example.com:8443', true],
      ['http://app.example.com', false],
      ['https://app.example.com:444', false],
      ['https://app.example.com.evil.example', false],
      ['https://evilapp.example.com', false],
      ['https://APP.example.com', false],
      ['null', false],
      ['', false],
      [undefined, false],
    ];
    for (const [origin, open] of table) {
      const headers = origin === undefined ? {} : { origin };
      const refused = await service.request('GET', LIST, { headers });
      t.equal(refused.status, 401, 'a page must be able to read why');
      t.equal(refused.headers['access-control-allow-origin'], open ? origin : undefined, `${origin}`);
      t.match(refused.headers.vary, /\bOrigin\b/, 'caches keep origins apart');
      t.equal(refused.headers['access-control-allow-credentials'], undefined);
    }
  });

  t.test('answers preflights of every method in use, without a key', async (t) => {
    for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']) {
      const headers = {
        origin: 'https://app.example.com',
        'access-control-request-method': method,
        'access-control-request-headers': 'authorization,if-match,idempotency-key',
      };
      const { status, headers: answered } = await service.request('OPTIONS', ONE, { headers });
      t.equal(status, 204);
      t.equal(answered['access-control-allow-origin'], 'https://app.example.com');
      t.ok(String(answered['access-control-allow-methods']).split(', ').includes(method), method);
      const names =
        'authorization x-api-key content-type if-match idempotency-key x-request-id traceparent tracestate baggage';
      for (const name of [...names.split(' '), 'x-client-version', 'x-other']) {
        t.ok(String(answered['access-control-allow-headers']).split(', ').includes(name), name);
      }
    }
    const headers = { origin: 'https://evil.example', 'access-control-request-method': 'PATCH' };
    const refused = await service.request('OPTIONS', ONE, { headers });
    t.equal(refused.headers['access-control-allow-origin'], undefined);
  });

  t.test('does not turn unknown URLs into known ones', async (t) => {
    t.equal((await service.request('GET', '/nowhere')).status, 404);
    t.equal((await service.request('OPTIONS', '/nowhere')).status, 404);
    t.equal((await service.request('OPTIONS', LIST)).status, 405);
  });

  t.test('is closed without CORS_ORIGINS', async (t) => {
    const origin = 'https://app.example.com';
    const read = await closed.request('GET', LIST, { headers: { origin } });
    const preflight = { origin, 'access-control-request-method': 'PATCH' };
    const asked = await closed.request('OPTIONS', LIST, { headers: preflight });
    for (const { headers } of [read, asked]) {
      t.notMatch(Object.keys(headers).join(' '), /access-control/);
    }
  });
});

t.test(
  'a failure inside says nothing of the inside, and the log says all of it, once, under the same id',
  async (t) => {
    const databaseUrl = await createDatabase(t);
    const service = await startTestApp(t, { DATABASE_URL: databaseUrl });
    const { token } = await service.issueKey();
    await withClient(databaseUrl, (client) =>
      client.query('alter table audit_event rename column outcome to s3cret'),
    );
    const errors = [
      Object.assign(new Error('connect ECONNREFUSED postgres://app:s3cret@db.internal:5432/app'), {
        code: 'ECONNREFUSED',
        detail: 'Key (name)=(s3cret) exists',
        statusCode: 500,
      }),
      new TypeError('cannot read', { cause: new Error('select s3cret from audit_event') }),
      's3cret, thrown as text',
      undefined,
    ];

    const answers = [await service.request('GET', LIST, { token })];
    for (const error of errors) {
      onRead(service, () => Promise.reject(error));
      answers.push(await service.request('GET', ONE, { token }));
    }

    for (const { status, text, json, headers } of answers) {
      t.match({ status, code: json.code }, { status: 500, code: 'internal' });
      t.notMatch(text + JSON.stringify(headers), /s3cret|postgres|ECONN|select|column|TypeError|\.ts|at /);
      const lines = service.logs.filter((line) => line.request_id === json.instance);
      t.same(
        lines.map((line) => [line.level, line.message]),
        [
          ['error', 'request failed'],
          ['info', 'request completed'],
        ],
      );
    }
    const [sql, connection, caused] = service.logs.flatMap(({ error }) =>
      error ? [JSON.stringify(error)] : [],
    );
    t.match(sql, /column .*outcome.* does not exist.*stack/s);
    t.match(connection, /postgres:\/\/app:\*\*\*@db\.internal/, 'the password is masked');
    t.notMatch(connection, /:s3cret@/, 'everywhere');
    t.notMatch(connection, /Key \(name\)/, 'values of rows stay out');
    t.match(caused, /cannot read.*select s3cret from audit_event/s, 'causes are told');
  },
);

t.test('the request log', async (t) => {
  const service = await startTestApp(t, { SLOW_REQUEST_THRESHOLD_MS: '60', DOCS_ENABLED: 'true' });
  const port = await listen(service);
  const { id, token } = await service.issueKey();
  const linesOf = async (work: () => Promise<unknown>) => {
    const from = service.logs.length;
    await work();
    return service.logs.slice(from);
  };

  t.test('has one line for a request, with exactly the documented fields', async (t) => {
    const known = await linesOf(() => service.request('GET', `${ONE}?x=1`, { token }));
    const unknown = await linesOf(() => service.request('DELETE', '/v1/nowhere'));
    const malformed = await linesOf(() => send(port, 'garbage\r\n\r\n'));
    const undecodable = await linesOf(() => send(port, get('/v1/%zz')));

    const fields = [
      'timestamp',
      'level',
      'logger',
      'message',
      'request_id',
      'method',
      'endpoint',
      'status',
      'duration_ms',
    ];
    const lines = [known, unknown, malformed, undecodable];
    t.same(
      lines.map(({ length }) => length),
      [1, 1, 1, 1],
    );
    for (const [line] of [unknown, malformed, undecodable])
      t.same(Object.keys(line ?? {}).toSorted(), fields.toSorted());
    t.same(Object.keys(known[0] ?? {}).toSorted(), [...fields, 'tenant', 'key_id'].toSorted());
    t.match(known[0], {
      level: 'info',
      logger: 'hardpoint',
      message: 'request completed',
      tenant: 'acme',
      key_id: id,
      method: 'GET',
      endpoint: '/v1/api-keys/:id',
      duration_ms: Number,
    });
    t.equal(new Date(String(known[0]?.timestamp)).toISOString(), known[0]?.timestamp);
    t.match(unknown[0], { method: 'DELETE', endpoint: 'unmatched', status: 401 });
    t.match(malformed[0], { method: 'OTHER', endpoint: 'unmatched', status: 400 });
  });

  t.test('makes a logger for a request only when it is used', async (t) => {
    const own = await startTestApp(t);
    const { log } = own.app;
    let made = 0;
    const child = log.child.bind(log);
    log.child = (...args: Parameters<typeof child>) => {
      made += 1;
      return child(...args);
    };
    await own.request('GET', LIST);
    t.equal(made, 0);
    const { token: other } = await own.issueKey();
    onRead(own, () => Promise.reject(new Error('on purpose')));
    t.equal((await own.request('GET', ONE, { token: other })).status, 500);
    t.equal(made, 1);
  });

  t.test('cannot be written by a client', async (t) => {
    const line = '%0a{"level":"fatal","message":"forged"}%0d%0a';
    const forged = await linesOf(async () => {
      await service.request('GET', `/v1/${line}?${line}`, { headers: { 'user-agent': line, referer: line } });
      await service.request('GET', `/v1/api-keys/${line}`, { token, headers: { 'x-request-id': line } });
      await send(port, get(`/${line}%zz`, `X-Request-Id: ${line}`));
    });
    t.equal(forged.length, 3);
    t.notMatch(JSON.stringify(forged), /forged/);
  });

  t.test('leaves probes out', async (t) => {
    const lines = await linesOf(async () => {
      for (const url of ['/health', '/health/live', '/health/ready']) await service.request('GET', url);
    });
    t.same(lines, []);
  });

  t.test('warns of a slow request once', async (t) => {
    onRead(service, () => delay(100).then(() => NOTHING));
    const before = await service.metric('api_slow_requests_total');
    const lines = await linesOf(() => service.request('GET', ONE, { token }));

    t.match(lines, [{ level: 'warn', message: 'SLOW REQUEST', endpoint: '/v1/api-keys/:id', status: 404 }]);
    t.equal(lines.length, 1);
    t.ok(Number(lines[0]?.duration_ms) >= 95);
    t.equal(await service.metric('api_slow_requests_total'), before + 1);
  });

  t.test('tells of a client that hung up before its answer', async (t) => {
    let release: (found: unknown) => void = () => {};
    onRead(service, () => new Promise((resolve) => (release = resolve)));
    const before = service.logs.length;
    const socket = connect(port, '127.0.0.1');
    socket.write(get(ONE, `Authorization: Bearer ${token}`));
    await until(
      'the request is in flight',
      async () => (await service.metric('api_requests_in_flight')) === 1,
    );
    socket.destroy();
    await once(socket, 'close');

    await until('the request is in the log', () => service.logs.length > before);
    release(NOTHING);
    t.match(service.logs.slice(before), [{ status: 499, endpoint: '/v1/api-keys/:id' }]);
    t.equal(await service.metric('api_requests_in_flight'), 0);
    t.equal(
      await service.metric('api_requests_total{method="GET",route="/v1/api-keys/:id",status="499"}'),
      1,
    );
  });
});

t.test('a process that falls behind sheds requests, stays alive for probes, and recovers', async (t) => {
  const service = await startTestApp(t, { MAX_EVENT_LOOP_DELAY_MS: '100' });
  const { token } = await service.issueKey();
  const ask = () => service.request('GET', LIST, { token });
  t.equal((await ask()).status, 200);

  const clock = new Int32Array(new SharedArrayBuffer(4));
  const burden = setInterval(() => Atomics.wait(clock, 0, 0, 200), 1);
  let answer = await ask();
  await until('requests are shed', async () => (answer = await ask()).status === 503);
  const live = await service.request('GET', '/health/live');
  clearInterval(burden);

  t.match(answer, { status: 503, json: { code: 'overloaded' }, headers: { 'retry-after': '2' } });
  t.equal(live.status, 200);
  await until('requests are taken again', async () => (await ask()).status === 200);
});

t.test('a process that stood still once sheds nothing afterwards', async (t) => {
  const service = await startTestApp(t, { MAX_EVENT_LOOP_DELAY_MS: '100' });
  const { token } = await service.issueKey();
  // So long that the mean of the half second is above the limit, whatever else was seen in it.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 6_000);
  const endMs = performance.now() + 1_500;
  while (performance.now() < endMs) t.equal((await service.request('GET', LIST, { token })).status, 200);
});
