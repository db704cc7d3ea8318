import { once } from 'node:events';
import { connect } from 'node:net';
import t, { type Test } from 'tap';
// example:start
import { newOrder } from '../support/app.ts';
// example:end
import { startTestApp } from '../support/app.ts';
import { createDatabase, withClient } from '../support/postgres.ts';
import { header, send, type RawAnswer } from '../support/raw-http.ts';

/** Stands wherever a client may put what it likes, and in no answer. */
const CANARY = 'c4n4ry';
const BODY_LIMIT_BYTES = 256 * 1024;

const databaseUrl = await createDatabase(t);
const service = await startTestApp(t, {
  DATABASE_URL: databaseUrl,
  SECRET_KEY: 'only-for-tests-f0e1d2c3b4a59687-7768',
  MAX_REQUEST_SIZE_MB: '0.25',
  CORS_ORIGINS: 'https://app.example.com',
  AUTH_FAILURES_PER_MINUTE: '1000000',
});
const port = Number(new URL(await service.app.listen({ host: '127.0.0.1', port: 0 })).port);
const { token } = await service.issueKey();
/** A key that nobody uses. */
const ONE = `/v1/api-keys/${(await service.issueKey()).id}`;
const LIST = '/v1/audit-events';
const ID = '0199d4f0-0000-7000-8000-000000000000';
// example:start
const orderId: string = (await service.request('POST', '/v1/orders', { token, body: newOrder() })).json.id;
const ORDER = `/v1/orders/${orderId}`;
// example:end
const rowsBefore = await countRows();

const HEAD = `Host: api.example.com\r\nConnection: close\r\nAuthorization: Bearer ${token}\r\n`;
const JSON_HEAD = `${HEAD}Content-Type: application/json\r\n`;
const VALID = JSON.stringify({ name: CANARY, scopes: ['audit:read'], limitPerMinute: 1250 });

interface Parts {
  headers?: string[];
  body?: unknown;
  type?: string | null;
}

/** A request that is in order but for what the arguments say; bodies that are no text or bytes are sent as JSON. */
function http(
  method: string,
  path: string,
  { headers = [], body, type = 'application/json' }: Parts = {},
): Buffer {
  const isRaw = typeof body === 'string' || Buffer.isBuffer(body);
  const bytes = Buffer.from(isRaw ? body : body === undefined ? '' : JSON.stringify(body));
  const lines = body === undefined ? [] : [`Content-Length: ${bytes.length}`];
  if (body !== undefined && type !== null) lines.push(`Content-Type: ${type}`);
  const head = [
    `${method} ${path} HTTP/1.1\r\n${HEAD}`,
    ...[...lines, ...headers].map((line) => `${line}\r\n`),
  ];
  return Buffer.concat([Buffer.from(`${head.join('')}\r\n`, 'latin1'), bytes]);
}

const get = (path: string, ...headers: string[]) => http('GET', path, { headers });
const list = (query: string) => get(`${LIST}?${query}`);
const post = (body: unknown, parts: Parts = {}) => http('POST', '/v1/api-keys', { body, ...parts });
const key = (changes: object) => post({ name: CANARY, scopes: ['audit:read'], ...changes });
// example:start
const postOrder = (body: unknown, parts: Parts = {}) => http('POST', '/v1/orders', { body, ...parts });
const order = (changes: object) => postOrder(newOrder({ reference: CANARY, ...changes }));
const items = (count: number, changes: object = {}) =>
  Array.from({ length: count }, () => ({ sku: CANARY, quantity: 1, unitPriceMinor: 1, ...changes }));
const item = (changes: object) => order({ items: items(1, changes) });
const patch = (...headers: string[]) => http('PATCH', ORDER, { headers, body: { status: 'paid' } });
const listOrders = (query: string) => get(`/v1/orders?${query}`);
const VALID_ORDER = JSON.stringify(newOrder({ reference: CANARY }));
// example:end
/** The framing headers, and what follows, are the argument's. */
const framed = (rest: string, version = '1.1') => `POST /v1/api-keys HTTP/${version}\r\n${JSON_HEAD}${rest}`;
const CHUNKED = 'Transfer-Encoding: chunked\r\n\r\n';
const chunk = (bytes: number) => `${bytes.toString(16)}\r\n${'x'.repeat(bytes)}\r\n`;
const deep = (levels: number) => '['.repeat(levels) + ']'.repeat(levels);

type Case = [what: string, bytes: string | Buffer, status: number, code: string];
const bad = (what: string, bytes: string | Buffer): Case => [what, bytes, 400, 'bad_request'];
const invalid = (what: string, bytes: string | Buffer): Case => [what, bytes, 400, 'validation_failed'];
const noJson = (what: string, bytes: string | Buffer): Case => [what, bytes, 400, 'malformed_json'];
const unknown = (what: string, bytes: string | Buffer): Case => [what, bytes, 404, 'not_found'];
const badMethod = (what: string, bytes: string | Buffer): Case => [what, bytes, 405, 'method_not_allowed'];
const badAccept = (accept: string): Case => [accept, get(LIST, `Accept: ${accept}`), 406, 'not_acceptable'];
// example:start
const stale = (what: string, bytes: string | Buffer): Case => [what, bytes, 412, 'precondition_failed'];
const noVersion = (what: string, bytes: string | Buffer): Case => [what, bytes, 428, 'precondition_required'];
// example:end
const tooLarge = (what: string, bytes: string | Buffer): Case => [what, bytes, 413, 'payload_too_large'];
const badType = (what: string, bytes: string | Buffer): Case => [what, bytes, 415, 'unsupported_media_type'];
const tooManyHeaders = (what: string, bytes: string | Buffer): Case => [
  what,
  bytes,
  431,
  'headers_too_large',
];

const TABLE: Record<string, Case[]> = {
  'a request that two parsers could cut differently is refused and its connection closed': [
    bad('Content-Length with Transfer-Encoding', framed(`Content-Length: 5\r\n${CHUNKED}0\r\n\r\n`)),
    bad('Content-Length twice', framed(`Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}`)),
    bad('two lengths', framed(`Content-Length: 2\r\nContent-Length: 1\r\n\r\n{}`)),
    bad('a list of lengths', framed(`Content-Length: 2, 2\r\n\r\n{}`)),
    bad('a negative length', framed(`Content-Length: -1\r\n\r\n{}`)),
    bad('a length with a sign', framed(`Content-Length: +2\r\n\r\n{}`)),
    bad('a hexadecimal length', framed(`Content-Length: 0x2\r\n\r\n{}`)),
    bad('a length beyond 64 bits', framed(`Content-Length: 99999999999999999999\r\n\r\n{}`)),
    bad('an unknown transfer encoding', framed(`Transfer-Encoding: xchunked\r\n\r\n${chunk(2)}0\r\n\r\n`)),
    bad('chunked before another encoding', framed(`Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n`)),
    bad('gzip, chunked', framed(`Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`)),
    bad('Transfer-Encoding twice', framed(`Transfer-Encoding: identity\r\n${CHUNKED}0\r\n\r\n`)),
    bad('Transfer-Encoding in HTTP/1.0', framed(`${CHUNKED}0\r\n\r\n`, '1.0')),
    bad('a chunk size that is none', framed(`${CHUNKED}zz\r\n{}\r\n0\r\n\r\n`)),
    bad('a chunk size beyond 64 bits', framed(`${CHUNKED}${'f'.repeat(18)}\r\n{}\r\n0\r\n\r\n`)),
    bad('a chunk longer than its size', framed(`${CHUNKED}1\r\n{}\r\n0\r\n\r\n`)),
    bad('a chunk extension of 20 KB', framed(`${CHUNKED}2;${'a'.repeat(20_000)}\r\n{}\r\n0\r\n\r\n`)),
    bad('a blank before the colon', `GET ${LIST} HTTP/1.1\r\n${HEAD}X-A : b\r\n\r\n`),
    bad('a folded header', `GET ${LIST} HTTP/1.1\r\n${HEAD}X-A: b\r\n c: d\r\n\r\n`),
    bad('a bare LF after the request line', `GET ${LIST} HTTP/1.1\n${HEAD}\r\n`),
    bad('a bare LF after a header', `GET ${LIST} HTTP/1.1\r\n${HEAD}X-A: b\nX-B: c\r\n\r\n`),
    bad('a bare CR in a header', `GET ${LIST} HTTP/1.1\r\n${HEAD}X-A: b\rX-B: c\r\n\r\n`),
    bad('a NUL in a header', `GET ${LIST} HTTP/1.1\r\n${HEAD}X-A: b\0c\r\n\r\n`),
    bad('no Host', `GET ${LIST} HTTP/1.1\r\nAuthorization: Bearer ${token}\r\n\r\n`),
    bad('an empty Host', `GET ${LIST} HTTP/1.1\r\nHost:\r\n\r\n`),
    bad('two Hosts', get(LIST, 'Host: evil.example.com')),
    bad('the same Host twice', get(LIST, 'host: api.example.com')),
    bad('a Host with a path', `GET ${LIST} HTTP/1.1\r\nHost: a.example.com/b\r\n\r\n`),
    bad('a Host with a user', `GET ${LIST} HTTP/1.1\r\nHost: a@b.example.com\r\n\r\n`),
    bad('a list of Hosts', `GET ${LIST} HTTP/1.1\r\nHost: a.example.com, b.example.com\r\n\r\n`),
    bad('two Authorization headers', get(LIST, `Authorization: Bearer ${CANARY}`)),
    bad('two Content-Type headers', post(VALID, { headers: ['Content-Type: text/plain'] })),
  ],

  'what is not HTTP/1 is refused': [
    bad('HTTP/0.9', `GET ${LIST}\r\n\r\n`),
    bad('HTTP/3.0', `GET ${LIST} HTTP/3.0\r\n${HEAD}\r\n`),
    bad('the preface of HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
    bad('a TLS greeting', Buffer.from('16030100a5010000a10303', 'hex')),
    bad('garbage', Buffer.from([1, 2, 3, 255, 254, 0, 0, 13, 10, 13, 10])),
    bad('a method that is no token', `GE(T ${LIST} HTTP/1.1\r\n${HEAD}\r\n`),
    bad('an unknown method', `${CANARY} ${LIST} HTTP/1.1\r\n${HEAD}\r\n`),
    bad('a method in lower case', `get ${LIST} HTTP/1.1\r\n${HEAD}\r\n`),
    bad('CONNECT', `CONNECT api.example.com:443 HTTP/1.1\r\n${HEAD}\r\n`),
    bad('a blank in the URL', get(`${LIST} ${CANARY}`)),
    bad('a NUL in the URL', get('/v1/api\0-keys')),
    bad('UTF-8 in the URL', Buffer.from(`GET /v1/äpi-keys HTTP/1.1\r\n${HEAD}\r\n`)),
    bad('a URL without a slash', get(CANARY)),
  ],

  'what is too large is refused before it is read': [
    tooManyHeaders('a header of 17 KB', get(LIST, `X-A: ${CANARY.repeat(3000)}`)),
    tooManyHeaders('2,000 headers', http('GET', LIST, { headers: Array<string>(2000).fill('a:b') })),
    tooManyHeaders('a URL of 17 KB', list(`cursor=${'a'.repeat(17_000)}`)),
    [`a path parameter of 201 characters`, get(`/v1/api-keys/${'a'.repeat(201)}`), 414, 'uri_too_long'],
    unknown('an unknown URL of 8 KB', get(`/${'a'.repeat(8000)}`)),
    tooLarge(
      'a body over the limit by its length',
      framed(`Content-Length: ${BODY_LIMIT_BYTES + 1}\r\n\r\n{`),
    ),
    tooLarge('the same, sent in whole', post(Buffer.alloc(BODY_LIMIT_BYTES + 1, CANARY))),
    tooLarge('the largest length that is a number', framed(`Content-Length: 9007199254740991\r\n\r\n{`)),
    tooLarge(
      'a length that is announced with Expect',
      framed('Expect: 100-continue\r\nContent-Length: 999999\r\n\r\n'),
    ),
    tooLarge('a body over the limit by its chunks', framed(CHUNKED + chunk(BODY_LIMIT_BYTES / 2).repeat(3))),
  ],

  'a URL that is not exactly one of the routes is unknown': [
    unknown('unknown', get(`/${CANARY}`)),
    unknown('unknown below /v1', get(`/v1/${CANARY}?${CANARY}`)),
    unknown('a body for an unknown URL', http('POST', `/v1/${CANARY}`, { body: CANARY, type: 'text/plain' })),
    unknown('a double slash', get(`/${LIST}`)),
    unknown('dots', get('/v1/../v1/api-keys')),
    unknown('encoded dots', get('/v1/%2e%2e/v1/api-keys')),
    unknown('an encoded slash', get('/v1%2fapi-keys')),
    unknown('another case', get('/V1/api-keys')),
    unknown('a trailing slash', get(`${LIST}/`)),
    unknown('a path parameter with a semicolon', get(`${LIST};${CANARY}=1`)),
    unknown('an asterisk', http('OPTIONS', '*')),
    bad('a percent sign alone', get('/v1/%')),
    bad('percent signs with letters', get(`/v1/api-keys/%zz${CANARY}`)),
    bad('a percent-encoded byte that is no UTF-8', get('/v1/api-keys/%ff')),
    bad('the same with a method nobody knows', http('PROPFIND', '/v1/api-keys/%ff')),
  ],

  'a method that a URL does not answer is refused and told which ones it does': [
    badMethod('PUT on a list', http('PUT', LIST)),
    badMethod(
      'PUT with a body that could not be read',
      http('PUT', LIST, { body: CANARY, type: 'text/plain' }),
    ),
    badMethod('POST on one', http('POST', ONE, { body: VALID })),
    badMethod('POST on health', http('POST', '/health/live')),
    badMethod('OPTIONS that is no preflight', http('OPTIONS', LIST)),
    badMethod('TRACE', http('TRACE', LIST)),
    badMethod('PROPFIND', http('PROPFIND', LIST)),
    badMethod('SEARCH', http('SEARCH', LIST)),
    badMethod('a whole URL', http('PUT', `http://api.example.com${LIST}`)),
  ],

  'what is not JSON is refused': [
    noJson('cut off', post(`{"name":"${CANARY}"`)),
    noJson('a trailing comma', post(`${VALID.slice(0, -1)},}`)),
    noJson('NaN', post(VALID.replace('1250', 'NaN'))),
    noJson('Infinity', post(VALID.replace('1250', '-Infinity'))),
    noJson('single quotes', post(VALID.replaceAll('"', "'"))),
    noJson('a comment', post(`/* ${CANARY} */ ${VALID}`)),
    noJson('two documents', post(VALID + VALID)),
    noJson('UTF-16', post(Buffer.from(VALID, 'utf16le'))),
    noJson('an empty body', post('')),
    noJson(
      'no body but its type',
      http('POST', '/v1/api-keys', { headers: ['Content-Type: application/json'] }),
    ),
    noJson('a body of DELETE', http('DELETE', ONE, { body: CANARY })),
    noJson('__proto__', post(`{"__proto__":{"admin":true},${VALID.slice(1)}`)),
    noJson('__proto__ in escapes', post(`{"__pr\\u006fto__":{"admin":true},${VALID.slice(1)}`)),
    noJson('__proto__ below', post(`{"surplus":[{"__proto__":{"admin":true}}],${VALID.slice(1)}`)),
    noJson('constructor.prototype', post(`{"constructor":{"prototype":{"admin":true}},${VALID.slice(1)}`)),
  ],

  'a body of another type or encoding is refused': [
    badType('no type', post(VALID, { type: null })),
    badType('text', post(VALID, { type: 'text/plain' })),
    badType('a form', post(`name=${CANARY}`, { type: 'application/x-www-form-urlencoded' })),
    badType('multipart', post(`--x\r\n\r\n${CANARY}\r\n--x--`, { type: 'multipart/form-data; boundary=x' })),
    badType('a type that begins like JSON', post(VALID, { type: 'application/jsonx' })),
    badType('half a type', post(VALID, { type: 'application' })),
    badType('a body of DELETE', http('DELETE', ONE, { body: CANARY, type: 'text/plain' })),
    badType('another charset', post(VALID, { type: 'application/json; charset=latin1' })),
    badType('another charset in quotes', post(VALID, { type: 'application/json;charset="utf-16"' })),
    badType('gzip', post(VALID, { headers: ['Content-Encoding: gzip'] })),
  ],

  'a client that does not accept JSON is told so': [
    badAccept('text/html'),
    badAccept('text/*, application/xml'),
    badAccept('application/json;q=0'),
    badAccept('*/*;q=0.0'),
    badAccept('*/*, application/json; q=0'),
    badAccept(CANARY),
  ],

  'a body that is not what the route takes is refused, and nothing is converted': [
    invalid('no body', http('POST', '/v1/api-keys')),
    invalid('null', post('null')),
    invalid('an array', post('[]')),
    invalid('a string', post(`"${CANARY}"`)),
    invalid('a number', post('1')),
    invalid('bytes that are no UTF-8', post(Buffer.from(VALID.replace('audit', '\xff\xfe'), 'latin1'))),
    invalid('100,000 arrays in each other', post(deep(100_000))),
    invalid('the same in a field', post(`{"scopes":${deep(100_000)}}`)),
    invalid('an unknown field', key({ surplus: CANARY })),
    invalid('the tenant', key({ tenant: CANARY })),
    invalid('text for a number', key({ limitPerMinute: '1' })),
    invalid('true for a number', key({ limitPerMinute: true })),
    invalid('a fraction', key({ limitPerMinute: 12.5 })),
    invalid('a number of 400 digits', post(VALID.replace('1250', '1'.repeat(400)))),
    invalid('an exponent out of range', post(VALID.replace('1250', '1e999'))),
    invalid('a number that floats cannot hold', post(VALID.replace('1250', '9007199254740993'))),
    invalid('a number below its bound', key({ limitPerMinute: -1 })),
    invalid('a number above its bound', key({ limitPerMinute: 10_000_001 })),
    invalid('a number for text', key({ name: 1 })),
    invalid('an array for text', key({ name: [CANARY] })),
    invalid('null for text', key({ name: null })),
    invalid('an object for an array', key({ scopes: { 0: '*' } })),
    invalid('an empty array', key({ scopes: [] })),
    invalid('51 scopes', key({ scopes: Array<string>(51).fill('audit:read') })),
    invalid('text that is too long', key({ name: CANARY.repeat(17) })),
    invalid('a NUL', key({ name: `${CANARY}\0` })),
    invalid('text beyond ASCII', key({ scopes: [`ünï:${CANARY}`] })),
    invalid('a scope in upper case', key({ scopes: ['Audit:Read'] })),
    invalid('a field twice, of which the last counts', post(VALID.replace('1250', `1250,"name":${deep(1)}`))),
    invalid('a date in the past', key({ expiresAt: '2020-01-01T00:00:00Z' })),
    invalid('a date that is none', key({ expiresAt: CANARY })),
    invalid('a day that is none', key({ expiresAt: '2126-02-30T00:00:00Z' })),
    invalid('a date without a zone', key({ expiresAt: '2126-01-01T00:00:00' })),
    // example:start
    invalid('an unknown field of an item', item({ surplus: CANARY })),
    noJson('__proto__ of an item', postOrder(VALID_ORDER.replace('{"sku"', '{"__proto__":{"a":1},"sku"'))),
    invalid('a fraction of a cent', item({ unitPriceMinor: 12.5 })),
    invalid('a total above its bound', order({ items: items(2, { quantity: 1e4, unitPriceMinor: 1e8 }) })),
    invalid('no items', order({ items: [] })),
    invalid('101 items', order({ items: items(101) })),
    invalid('a reference that is too long', order({ reference: CANARY.repeat(11) })),
    invalid('a NUL in a reference', order({ reference: `${CANARY}\0` })),
    invalid('a reference beyond ASCII', order({ reference: `ünï${CANARY}` })),
    invalid('a currency in lower case', order({ currency: 'eur' })),
    // example:end
    invalid(
      'an Expect that nobody knows changes nothing',
      framed(`Expect: ${CANARY}\r\nContent-Length: 2\r\n\r\n{}`),
    ),
  ],

  'a query or a path that is not what the route takes is refused': [
    ...['0', '-1', '101', '1e3', 'abc', '', '%zz', '1&limit=2', '9'.repeat(30)].map((limit) =>
      invalid(`limit=${limit}`, list(`limit=${limit}`)),
    ),
    invalid('brackets', list('limit[]=1')),
    invalid('an unknown parameter', list(`surplus=${CANARY}`)),
    invalid('__proto__', list(`__proto__=${CANARY}`)),
    invalid('__proto__ with brackets', list('__proto__[admin]=true')),
    invalid('constructor.prototype', list('constructor.prototype=1')),
    invalid('an empty cursor', list('cursor=')),
    invalid('a cursor that is too long', list(`cursor=${'a'.repeat(513)}`)),
    ...[`["${ID}"]`, `${'\0'.repeat(12)}${ID}`].map((cursor): Case => {
      const bytes = list(`cursor=${Buffer.from(cursor).toString('base64url')}`);
      return [`a cursor of one’s own, ${cursor}`, bytes, 404, 'not_found'];
    }),
    invalid('a cursor that is a NUL', list('cursor=%00')),
    invalid('an id that is none', get(`/v1/api-keys/${CANARY}-`)),
    invalid('an id with something behind it', get(`${ONE}'%20or%201=1--`)),
    invalid('an id with an encoded slash', get('/v1/api-keys/a%2fb')),
    invalid('an id that is a NUL', get('/v1/api-keys/%00')),
    // example:start
    invalid('an unknown status', listOrders(`status=${CANARY}`)),
    invalid('two of what there is one of', listOrders('status=paid&status=pending')),
    invalid('a time that is none', listOrders(`createdFrom=${CANARY}`)),
    invalid('a day that is none', listOrders('createdFrom=2026-02-30T00:00:00Z')),
    invalid('a time without a zone', listOrders('createdFrom=2026-01-01T00:00:00')),
    invalid('a year that Postgres does not have', listOrders('createdFrom=0000-01-01T00:00:00Z')),
    invalid('the same in a day', get('/v1/orders/summary?from=0000-01-01&to=0000-01-02')),
    invalid('a leap second', listOrders('createdFrom=2026-01-01T23:59:60Z')),
    invalid('no dates', get('/v1/orders/summary')),
    invalid('the end before the beginning', get('/v1/orders/summary?from=2026-01-02&to=2026-01-01')),
    invalid('more than a year', get('/v1/orders/summary?from=2026-01-01&to=2027-12-31')),
    invalid('an id that is no UUID', get(`/v1/orders/${CANARY}`)),
    invalid('a UUID with something behind it', get(`${ORDER}'%20or%201=1--`)),
    // example:end
    bad('a key in the URL', list(`api_key=${token}`)),
    bad('the same in another spelling', list(`Api-Key=${CANARY}`)),
    bad('the same on an unknown URL', get(`/?access_token=${CANARY}`)),
  ],

  'a header that says nothing clear is refused': [
    // example:start
    ...[`"${CANARY}"`, '1', '**', 'W/"1"', '"2", "3"', '"1" "2"', '"99999999999"', '', '"1'].map((tag) =>
      stale(`If-Match: ${tag}`, patch(`If-Match: ${tag}`)),
    ),
    noVersion('PATCH without If-Match', patch()),
    noVersion('DELETE without If-Match', http('DELETE', ORDER)),
    bad('an empty Idempotency-Key', postOrder(VALID_ORDER, { headers: ['Idempotency-Key: '] })),
    bad(
      'an Idempotency-Key with a blank',
      postOrder(VALID_ORDER, { headers: [`Idempotency-Key: ${CANARY} ${CANARY}`] }),
    ),
    bad(
      'an Idempotency-Key beyond ASCII',
      postOrder(VALID_ORDER, { headers: [`Idempotency-Key: ${CANARY}\xe9`] }),
    ),
    bad(
      'two Idempotency-Keys',
      postOrder(VALID_ORDER, { headers: ['Idempotency-Key: a', 'Idempotency-Key: b'] }),
    ),
    bad(
      'an Idempotency-Key of 256 characters',
      postOrder(VALID_ORDER, { headers: [`Idempotency-Key: ${'k'.repeat(256)}`] }),
    ),
    // example:end
    ['two different keys', get(LIST, `X-API-Key: ${CANARY}`), 401, 'unauthorized'],
  ],
};

for (const [promise, cases] of Object.entries(TABLE)) {
  t.test(promise, async (t) => {
    const answers = await Promise.all(cases.map(([, bytes]) => send(port, bytes)));
    for (const [index, [what, , status, code]] of cases.entries()) {
      checkProblem(t, answers[index] ?? [], status, code, what);
    }
  });
}

/** One answer, a whole problem, that repeats nothing of the request and stands in the log once under its id. */
function checkProblem(t: Test, answers: RawAnswer[], status: number, code: string, what: string): void {
  const [answer] = answers;
  t.equal(answers.length, 1, `${what}: one answer`);
  const { detail, title, errors, ...problem } = JSON.parse(answer?.body || '{}');
  const instance = header(answer, 'x-request-id');
  t.same(
    { status: answer?.status, type: header(answer, 'content-type'), problem },
    {
      status,
      type: 'application/problem+json; charset=utf-8',
      problem: { type: `urn:problem:${code}`, status, instance, code },
    },
    what,
  );
  t.ok(
    [instance, detail, title].every((text) => typeof text === 'string' && text !== ''),
    `${what}: says why`,
  );
  t.equal(Array.isArray(errors), code === 'validation_failed', `${what}: names the fields`);
  t.notMatch(JSON.stringify(answer), new RegExp(`${CANARY}|${token}`), `${what}: repeats nothing`);
  t.equal(header(answer, 'allow') !== undefined, status === 405, `${what}: Allow`);
  const lines = service.logs.filter((line) => line.request_id === instance);
  t.same(
    lines.map((line) => [line.message, line.status]),
    [['request completed', status]],
    `${what}: one log line`,
  );
}

t.test('what is odd and harmless is answered', async (t) => {
  const harmless: [what: string, bytes: Buffer | string, status: number][] = [
    ['HTTP/1.0 without a Host', `GET /health/live HTTP/1.0\r\n\r\n`, 200],
    ['a whole URL', get(`http://api.example.com${LIST}`), 200],
    ['a body of GET, which is ignored', http('GET', ONE, { body: CANARY, type: 'text/plain' }), 200],
    ['no Accept that says anything', get(ONE, 'Accept: '), 200],
    ['JSON by a range', get(ONE, 'Accept: text/html, application/*;q=0.1'), 200],
    ['a probe that likes another type', get('/health/live', 'Accept: text/plain'), 200],
    [
      'an offer of WebSocket',
      get(ONE, 'Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Key: x'),
      200,
    ],
    ['an offer of HTTP/2', get(ONE, 'Connection: Upgrade', 'Upgrade: h2c', 'HTTP2-Settings: AAA'), 200],
    ['90 headers', http('GET', ONE, { headers: Array<string>(90).fill('a:b') }), 200],
    ['a field more than once is the client’s own', get(ONE, 'X-A: 1', 'X-A: 2'), 200],
    ['HEAD of an unknown URL has no body', http('HEAD', `/${CANARY}`), 404],
    ['a whole body after 100 Continue', framed('Expect: 100-continue\r\nContent-Length: 2\r\n\r\n[]'), 400],
  ];

  for (const [what, bytes, status] of harmless) {
    t.same(
      (await send(port, bytes)).map((answer) => answer.status),
      [status],
      what,
    );
  }
});

t.test('a request that ends half way is refused', async (t) => {
  const inHeaders = await send(port, `GET ${LIST} HTTP/1.1\r\nHost: api.exam`, { hangUp: true });
  const inBody = await send(port, framed(`Content-Length: 100\r\n\r\n{"name":"${CANARY}`), {
    hangUp: true,
  });

  checkProblem(t, inHeaders, 400, 'bad_request', 'in its headers');
  checkProblem(t, inBody, 400, 'bad_request', 'in its body');
});

t.test('bytes after a good request do not cost it its answer', async (t) => {
  const keepAlive = `GET ${ONE} HTTP/1.1\r\n${HEAD.replace('Connection: close\r\n', '')}\r\n`;
  const [first, second, third, ...rest] = await send(port, `${keepAlive.repeat(2)}${CANARY}\r\n\r\n`);

  t.equal(first?.status, 200);
  t.equal(second?.status, 200);
  checkProblem(t, third ? [third, ...rest] : [], 400, 'bad_request', 'the bytes');
});

t.test('a client that asks for a tunnel and resets its connection does no harm', async (t) => {
  const sockets = Array.from({ length: 20 }, (_, i) => {
    const socket = connect(port, '127.0.0.1').on('error', () => {});
    socket.write('CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com\r\n\r\n');
    setTimeout(() => socket.resetAndDestroy(), i);
    return socket;
  });
  await Promise.all(sockets.map((socket) => once(socket, 'close')));

  t.equal((await service.request('GET', '/health/live')).status, 200);
});

t.test(
  'Bad input gets a documented status and a problem body; nothing is written, nothing dies.',
  async (t) => {
    t.same(await countRows(), rowsBefore);
    t.same(
      service.logs.filter((line) => line.level !== 'info'),
      [],
    );
    t.equal(await service.metric('api_errors_total{code="internal"}'), 0);
    t.equal(await service.metric('api_requests_in_flight'), 0);
    t.equal((await service.request('POST', '/v1/api-keys', { token, body: JSON.parse(VALID) })).status, 201);
  },
);

async function countRows(): Promise<Record<string, number>> {
  return withClient(databaseUrl, async (client) => {
    const tables = await client.query<{ name: string }>(
      `select table_name as name from information_schema.tables where table_schema = 'public' order by 1`,
    );
    const counts: Record<string, number> = {};
    for (const { name } of tables.rows) {
      counts[name] = Number((await client.query(`select count(*) from "${name}"`)).rows[0].count);
    }
    return counts;
  });
}
