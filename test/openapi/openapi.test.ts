import { Validator } from '@seriousme/openapi-schema-validator';
import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { randomUUID } from 'node:crypto';
import { rmSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { ERROR_CODES, type ErrorCode } from '../../src/errors.ts';
import { IDEMPOTENCY_KEY } from '../../src/idempotency/repository.ts';
import { startTestApp, type TestApp, type TestResponse } from '../support/app.ts';
import { makeDataFolder } from '../support/folders.ts';
import { createDatabase, withClient } from '../support/postgres.ts';
import { requireTool } from '../support/tools.ts';

// Most of their time a browser or Postgres is at work.
t.jobs = 3;

type Json = Record<string, any>;

interface Operation {
  id: string;
  method: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  path: string;
  json: Json;
}

async function readDocument({ request }: TestApp): Promise<Json> {
  return (await request('GET', '/openapi.json')).json;
}

function operationsOf(document: Json): Operation[] {
  return Object.entries(document.paths as Record<string, Json>).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, json]) => ({
      id: json.operationId,
      method: method.toUpperCase() as Operation['method'],
      path,
      json,
    })),
  );
}

/** Follows one reference inside of the document. */
function resolve(document: Json, value: Json): Json {
  if (typeof value.$ref !== 'string') return value;
  return value.$ref
    .slice(2)
    .split('/')
    .reduce((found: Json, name: string) => found[name], document);
}

const BASE = 'http://localhost/openapi.json';

function createAjv(document: Json): Ajv2020 {
  const ajv = new Ajv2020({ strict: false, allErrors: true });
  addFormats.default(ajv);
  ajv.addSchema({ ...document, $id: BASE });
  return ajv;
}

/** Why a value does not fit a schema of the document; undefined when it does. */
function misfit(ajv: Ajv2020, schema: Json, value: unknown): string | undefined {
  const found = located.get(schema);
  const absolute = found ?? (JSON.parse(JSON.stringify(schema).replaceAll('"#/', `"${BASE}#/`)) as Json);
  located.set(schema, absolute);
  return ajv.validate(absolute, value) ? undefined : ajv.errorsText();
}

// Ajv compiles a schema once as long as it is the same object.
const located = new WeakMap<Json, Json>();

/** Every schema that the document holds, with the place where it stands. */
function* schemasOf(value: unknown, place = '#'): Generator<[place: string, schema: Json]> {
  if (typeof value !== 'object' || value === null) return;
  for (const [key, inner] of Object.entries(value)) {
    const here = `${place}/${key}`;
    if (key === 'schema' || place === '#/components/schemas') yield [here, inner as Json];
    yield* schemasOf(inner, here);
  }
}

t.test('the document is valid OpenAPI 3.1, and every start writes the same', async (t) => {
  const [one, other] = await Promise.all([
    startTestApp(t),
    startTestApp(t, { RATE_LIMIT_ENABLED: 'false', ENFORCE_HTTPS: 'true', TRUSTED_PROXIES: '10.0.0.0/8' }),
  ]);
  const first = await one.request('GET', '/openapi.json');
  const second = await other.request('GET', '/openapi.json');

  const { valid, errors } = await new Validator().validate(structuredClone(first.json));

  t.ok(valid, JSON.stringify(errors));
  t.match(first.json.openapi, /^3\.1\./);
  t.equal(first.text, second.text);
  const ajv = createAjv(first.json);
  const schemas = [...schemasOf(first.json)];
  for (const [place, schema] of schemas) {
    t.ok(ajv.validateSchema(schema), `${place} ${ajv.errorsText()}`);
    for (const example of schema.examples ?? []) t.equal(misfit(ajv, schema, example), undefined, place);
  }
  t.ok(schemas.length > 50, 'the schemas were really read');
});

t.test('the document tells all there is to know of an operation', async (t) => {
  const app = await startTestApp(t);
  const document = await readDocument(app);
  const operations = operationsOf(document);
  const ajv = createAjv(document);

  t.equal(new Set(operations.map(({ id }) => id)).size, operations.length, 'ids are unique');
  const tags = new Set(operations.flatMap(({ json }) => json.tags as string[]));
  t.same(document.tags.map(({ name }: Json) => name).toSorted(), [...tags].toSorted());
  for (const { id, method, path, json } of operations) {
    t.match(json, { operationId: /^[a-z]+[A-Za-z]+$/, summary: /\w/, tags: [/\w/] }, `${method} ${path}`);
    const scope = /Needs the scope `([a-z-]+:[a-z-]+)`/.exec(json.description)?.[1];
    t.same(json.security, path.startsWith('/v1/') ? [{ bearer: [scope] }, { apiKey: [scope] }] : [], id);
    t.ok(!path.startsWith('/v1/') || scope, `${id} names its scope`);

    const inPath = json.parameters.filter((parameter: Json) => parameter.in === 'path');
    t.same(inPath.map(({ name }: Json) => `{${name}}`).join(), path.match(/\{\w+\}/g)?.join() ?? '', id);
    for (const { schema } of json.parameters) t.ok(schema.type, `${id} has typed parameters`);
    if (method === 'POST' || method === 'PATCH') {
      const { schema, example } = json.requestBody.content['application/json'];
      t.ok(example, `${id} has an example`);
      t.equal(misfit(ajv, schema, example), undefined, `${id}: its example is valid`);
      t.match(misfit(ajv, schema, { ...example, more: 1 }), /additional properties/, `${id} is closed`);
    }
    for (const [status, answer] of Object.entries(json.responses as Json)) {
      const { headers, content, description } = resolve(document, answer);
      t.ok(description && headers['X-Request-Id'], `${id} ${status}`);
      const type = status < '400' || path.startsWith('/health') ? /json/ : /^application\/problem\+json$/;
      for (const name of Object.keys(content ?? {})) t.match(name, type, `${id} ${status}`);
      if (status === '429') t.ok(headers['Retry-After'].required, `${id} ${status}`);
      if (status === '401') t.ok(headers['WWW-Authenticate'].required, `${id} ${status}`);
    }
  }

  t.match(document.paths['/v1/audit-events'].get.parameters[0], {
    name: 'limit',
    in: 'query',
    required: false,
    schema: { type: 'integer', minimum: 1, maximum: 100, default: 20 },
  });
  const headerOf = (path: string, method: string) =>
    document.paths[path][method].parameters.find((parameter: Json) => parameter.in === 'header');
  t.match(headerOf('/v1/api-keys', 'post'), { name: 'Idempotency-Key', required: false });
  t.match(headerOf('/v1/api-keys', 'post'), { schema: { pattern: IDEMPOTENCY_KEY.source } });
  t.match(headerOf('/v1/api-keys/{id}', 'patch'), { name: 'If-Match', required: true });
  t.same(document.components.schemas.Problem.properties.code.enum, ERROR_CODES);
  const patterns: string[] = [];
  JSON.stringify(document, (key, value) => {
    if (key === 'pattern' && typeof value === 'string') patterns.push(value);
    return value;
  });
  t.ok(patterns.length > 5);
  // Python, Java, Go and .NET read these otherwise than ECMAScript, or not at all.
  for (const pattern of patterns) t.notMatch(pattern, /\\[pPuck]|\(\?[<P#i]|\\d.*\[\^\]/, pattern);
  const cursor = document.paths['/v1/audit-events'].get.parameters[1];
  t.match(cursor, { name: 'cursor', schema: { pattern: String } });
  t.equal(misfit(ajv, { $ref: '#/components/schemas/ApiKey' }, {}) === undefined, false);
  t.notMatch(JSON.stringify(document.components.schemas.ApiKeyPage), 'additionalProperties');
});

/** What a request says beyond its operation; `token: ''` for none. */
interface RequestFixture {
  params?: Json;
  query?: string;
  headers?: Record<string, string>;
  body?: unknown;
  token?: string;
}

let variants = 0;
const AT_ONCE = 12;

/** An example with other texts and numbers, as far as its schema lets them be others: nothing unique comes twice. */
function vary<T>(example: T, fits: (value: unknown) => boolean): T {
  variants += 1;
  const copy = structuredClone(example);
  (function walk(value: unknown): void {
    if (typeof value !== 'object' || value === null) return;
    for (const [name, inner] of Object.entries(value)) {
      if (typeof inner !== 'string' && typeof inner !== 'number') walk(inner);
      else {
        (value as Json)[name] = typeof inner === 'string' ? `${inner}-${variants}` : inner + variants;
        if (!fits(copy)) (value as Json)[name] = inner;
      }
    }
  })(copy);
  return copy;
}

/** Days move together, so that a range stays one; a cached response would come without Postgres. */
function varyDay(schema: Json, example: unknown): unknown {
  if (schema.format !== 'date') return example;
  return new Date(Date.parse(String(example)) - variants * 86_400_000).toISOString().slice(0, 10);
}

/** What needs a socket or a busy event loop is provoked in other tests; probes and the status have no accidents. */
function cannotBeProvoked(code: ErrorCode, path: string): boolean {
  if (['request_timeout', 'overloaded'].includes(code)) return true;
  return /^\/health|^\/v1\/status$/.test(path) && ['internal', 'timeout'].includes(code);
}

t.test('every operation answers as the document says, in each documented way', async (t) => {
  const url = await createDatabase(t);
  const start = (env: Record<string, string> = {}) =>
    startTestApp(t, {
      DATABASE_URL: url,
      MAX_REQUEST_SIZE_MB: '0.01',
      // Compiling schemas keeps the event loop, which the service would take for too much load.
      MAX_EVENT_LOOP_DELAY_MS: '0',
      SECRET_KEY: 'only-for-tests-8b1f0c6d2e9a4753-51f7',
      ...env,
    });
  const [app, strict, hasty, alone, unheard] = await Promise.all([
    start(),
    start({ ENFORCE_HTTPS: 'true', TRUSTED_PROXIES: '127.0.0.1' }),
    start({
      POOL_WAIT_TIMEOUT_MS: '900',
      QUERY_TIMEOUT_SECONDS: '1',
      CONNECTION_POOL_SIZE: '20',
      QUERY_MAX_ROWS: '1',
    }),
    start({ DATABASE_URL: 'postgres://nobody@127.0.0.1:1/nothing' }),
    // Without Redis it cannot tell the other process of its changes.
    start({ EXPECTED_REPLICAS: '2', SECRET_KEY: '' }),
  ]);
  const tables = await tablesOf(url);
  for (const table of tables) {
    await sql(url, `alter table ${table} add column more text not null default 'undeclared'`);
  }
  const { token } = await app.issueKey();

  const document = await readDocument(app);
  const operations = operationsOf(document);
  const ajv = createAjv(document);
  const seen = new Set<string>();

  /** A request that succeeds, made of the examples of the document; a new one at each call. */
  async function fixtureOf({ path, json }: Operation): Promise<RequestFixture> {
    const fixture: RequestFixture = {};
    const [collection = '', name] = path.split(/\/\{(\w+)\}/);
    if (name !== undefined) {
      const create = operations.find((other) => other.method === 'POST' && other.path === collection);
      if (!create) throw new Error(`${path}: nothing creates what it names`);
      const made = await fire(create, await fixtureOf(create));
      fixture.params = { [name]: made.json.id };
    }
    variants += 1;
    const query = new URLSearchParams();
    for (const { in: place, name: parameter, required, schema, example } of json.parameters as Json[]) {
      if (place === 'query' && required)
        query.set(parameter, String(varyDay(schema, example ?? schema.examples?.[0])));
      if (place === 'query' && parameter === 'limit') query.set(parameter, '3');
      if (place === 'header' && parameter === 'Idempotency-Key')
        fixture.headers = { ...fixture.headers, 'idempotency-key': randomUUID() };
    }
    if (query.size > 0) fixture.query = query.toString();
    if (json.parameters.some(({ name: header }: Json) => header === 'If-Match')) {
      const one = path.replace(/\{\w+\}/, fixture.params?.[name ?? '']);
      const { headers } = await app.request('GET', one, { token });
      fixture.headers = { ...fixture.headers, 'if-match': String(headers.etag) };
    }
    const body = json.requestBody?.content['application/json'];
    if (body) fixture.body = vary(body.example, (value) => misfit(ajv, body.schema, value) === undefined);
    return fixture;
  }

  const variedBody = ({ json }: Operation, { body }: RequestFixture) => {
    const { schema } = json.requestBody.content['application/json'];
    return vary(body, (value) => misfit(ajv, schema, value) === undefined);
  };

  async function fire(
    { method, path }: Operation,
    fixture: RequestFixture,
    from = app,
  ): Promise<TestResponse> {
    const filled = path.replace(/\{(\w+)\}/g, (_, name: string) => fixture.params?.[name]);
    return from.request(method, fixture.query ? `${filled}?${fixture.query}` : filled, {
      ...(fixture.token !== '' && { token: fixture.token ?? token }),
      ...(fixture.headers && { headers: fixture.headers }),
      body: fixture.body,
    });
  }

  /** Holds an answer against the document; `expected` is its status or the code of its problem. */
  function check(operation: Operation, answer: TestResponse, expected: ErrorCode | number): void {
    const { id } = operation;
    const { status, text, json } = answer;
    const name = `${id} ${expected}`;
    t.equal(json?.code ?? status, expected, `${name}: ${status} ${text}`);
    const documented = operation.json.responses[status];
    if (!documented) return void t.fail(`${name}: ${status} is not documented`);
    const { headers, content = {} } = resolve(document, documented);
    const [type] = String(answer.headers['content-type'] ?? '').split(';');
    const { schema, examples } = content[String(type)] ?? {};
    if (Object.keys(content).length === 0) t.equal(text, '', `${name} has no body`);
    else if (!schema) t.fail(`${name}: the content type ${type} is not documented`);
    else t.equal(misfit(ajv, schema, json), undefined, `${name} has a body that fits`);
    t.notMatch(text, 'undeclared', `${name} keeps undeclared columns inside`);
    if (examples) t.ok(examples[expected], `${name} is documented`);

    seen.add(`${id} ${status}`).add(`${id} ${expected}`);
    for (const [header, told] of Object.entries(headers as Record<string, Json>)) {
      const value = answer.headers[header.toLowerCase()];
      if (value === undefined) t.notOk(told.required, `${name} has ${header}`);
      else {
        const read = told.schema.type === 'integer' ? Number(value) : value;
        t.equal(misfit(ajv, told.schema, read), undefined, `${name} has a ${header} that fits`);
        seen.add(`${id} ${status} ${header}`);
      }
    }
  }

  const PROVOCATIONS: Partial<
    Record<ErrorCode, (o: Operation, fixture: RequestFixture) => Promise<TestResponse>>
  > = {
    bad_request: (o, fixture) => fire(o, { ...fixture, query: 'api_key=x' }),
    malformed_json: (o, { headers, ...fixture }) =>
      fire(o, { ...fixture, headers: { ...headers, ...JSON_TYPE }, body: '{' }),
    validation_failed: (o, fixture) =>
      fire(
        o,
        fixture.params
          ? { ...fixture, params: { id: '!' } }
          : fixture.body
            ? { ...fixture, body: { x: 1 } }
            : { query: 'x=1' },
      ),
    unauthorized: (o, fixture) => fire(o, { ...fixture, token: '' }),
    forbidden: async (o, fixture) =>
      fire(o, { ...fixture, token: (await app.issueKey({ scopes: ['a:b'] })).token }),
    https_required: (o, fixture) => fire(o, fixture, strict),
    not_found: (o, fixture) => {
      const { schema } = o.json.parameters.find((parameter: Json) => parameter.in === 'path') ?? {};
      if (!schema) return fire(o, { ...fixture, query: `cursor=${'A'.repeat(32)}` });
      return fire(o, { ...fixture, params: { id: schema.format === 'uuid' ? randomUUID() : 'unknown' } });
    },
    not_acceptable: (o, fixture) =>
      fire(o, { ...fixture, headers: { ...fixture.headers, accept: 'text/html' } }),
    conflict: async (o, fixture) => {
      await fire(o, without(fixture, 'headers'));
      return fire(o, without(fixture, 'headers'));
    },
    // example:start
    illegal_transition: (o, fixture) => fire(o, { ...fixture, body: { status: 'delivered' } }),
    // example:end
    idempotency_in_progress: async (o, fixture) => {
      let first: Promise<TestResponse> | undefined;
      const second = await whileLocked(url, 'idempotency_record', async (waiting) => {
        first = fire(o, fixture);
        await waiting();
        return fire(o, fixture);
      });
      t.ok(Number((await first)?.status) < 300, 'the first one goes on');
      return second;
    },
    idempotency_response_gone: async (o, fixture) => {
      await fire(o, fixture, unheard);
      return fire(o, fixture, unheard);
    },
    precondition_failed: (o, fixture) => fire(o, { ...fixture, headers: { 'if-match': '"99"' } }),
    precondition_required: (o, fixture) => fire(o, without(fixture, 'headers')),
    payload_too_large: (o, { headers, ...fixture }) =>
      fire(o, {
        ...fixture,
        headers: { ...headers, ...JSON_TYPE },
        body: JSON.stringify('x'.repeat(20_000)),
      }),
    uri_too_long: (o, fixture) => fire(o, { ...fixture, params: { id: 'a'.repeat(201) } }),
    headers_too_large: (o, fixture) => {
      const many = Array.from({ length: 101 }, (_, index) => [`x-${index}`, '1']);
      return fire(o, { ...fixture, headers: { ...fixture.headers, ...Object.fromEntries(many) } });
    },
    unsupported_media_type: (o, { headers, ...fixture }) =>
      fire(o, { ...fixture, headers: { ...headers, 'content-encoding': 'gzip' } }),
    idempotency_key_reused: async (o, fixture) => {
      await fire(o, fixture);
      const body = variedBody(o, fixture);
      if (JSON.stringify(body) !== JSON.stringify(fixture.body)) return fire(o, { ...fixture, body });
      const { token: colleague } = await app.issueKey();
      return fire(o, { ...fixture, token: colleague });
    },
    // example:start
    result_too_large: async (o, fixture) => {
      const create = operations.find(({ id }) => id === 'createOrder')!;
      for (const currency of ['EUR', 'USD']) {
        const { body } = await fixtureOf(create);
        await fire(create, { body: { ...(body as Json), currency } });
      }
      const today = new Date().toISOString().slice(0, 10);
      return fire(o, { ...fixture, query: `from=${today}&to=${today}` }, hasty);
    },
    // example:end
    rate_limited: async (o, fixture) => {
      const limited = { ...fixture, token: (await app.issueKey({ limitPerMinute: 1 })).token };
      await fire(o, limited);
      return fire(o, limited);
    },
    internal: (o, fixture) => fire(o, fixture),
    unavailable: (o, fixture) => fire(o, fixture, alone),
    timeout: (o, fixture) => fire(o, fixture, hasty),
  };

  const AROUND: Partial<Record<ErrorCode, (work: () => Promise<void>) => Promise<void>>> = {
    async internal(work) {
      for (const table of tables) await sql(url, `alter table ${table} rename to ${gone(table)}`);
      await app.request('GET', '/v1/audit-events', { token });
      await work();
      for (const table of tables) await sql(url, `alter table ${gone(table)} rename to ${table}`);
    },
    async timeout(work) {
      await hasty.request('GET', '/v1/audit-events', { token });
      for (const table of tables) {
        await sql(url, `alter table ${table} rename to ${gone(table)}`);
        await sql(
          url,
          `create view ${table} as select * from ${gone(table)} where (select true from pg_sleep(9)) with check option`,
        );
      }
      await work();
      for (const table of tables) {
        await sql(url, `drop view ${table}; alter table ${gone(table)} rename to ${table}`);
      }
    },
  };

  const documents = (code: ErrorCode) => (operation: Operation) =>
    Object.values(operation.json.responses as Json)
      .flatMap((answer: Json) => Object.values((resolve(document, answer).content ?? {}) as Json))
      .some(({ examples }) => examples?.[code]);

  for (const operation of operations) {
    const fixture = await fixtureOf(operation);
    const status = Number(Object.keys(operation.json.responses)[0]);
    const first = await fire(operation, fixture);
    check(operation, first, status);
    if (fixture.headers?.['idempotency-key']) check(operation, await fire(operation, fixture), status);
    if (operation.json.responses[304]) {
      const headers = { 'if-none-match': String(first.headers.etag) };
      check(operation, await fire(operation, { ...fixture, headers }), 304);
    }
    if (operation.json.responses[status].headers['Propagation-Delay']) {
      check(operation, await fire(operation, await fixtureOf(operation), unheard), status);
    }
    if ('content' in (operation.json.responses[503] ?? {})) {
      check(operation, await fire(operation, fixture, alone), 503);
    }
  }
  for (const code of ERROR_CODES) {
    const concerned = operations.filter(documents(code)).filter(({ path }) => !cannotBeProvoked(code, path));
    if (concerned.length === 0) continue;
    const provoke = PROVOCATIONS[code];
    if (!provoke) {
      t.fail(`${code} is documented, and nothing provokes it`);
      continue;
    }
    const fixtures: [Operation, RequestFixture][] = [];
    for (const operation of concerned) fixtures.push([operation, await fixtureOf(operation)]);
    const work = async () => {
      // Not more at once than the pool has connections.
      for (let from = 0; from < fixtures.length; from += AT_ONCE) {
        const some = fixtures.slice(from, from + AT_ONCE);
        const responses = await Promise.all(some.map(([operation, fixture]) => provoke(operation, fixture)));
        for (const [index, [operation]] of some.entries()) check(operation, responses[index]!, code);
      }
    };
    await (AROUND[code] ?? ((run) => run()))(work);
  }

  for (const { id, path, json } of operations) {
    for (const [status, documented] of Object.entries(json.responses as Json)) {
      const { headers, content } = resolve(document, documented);
      const codes = Object.keys(content?.['application/problem+json']?.examples ?? {}) as ErrorCode[];
      if (codes.length > 0 && codes.every((code) => cannotBeProvoked(code, path))) continue;
      t.ok(seen.has(`${id} ${status}`), `${id} ${status} was seen`);
      for (const header of Object.keys(headers))
        t.ok(seen.has(`${id} ${status} ${header}`), `${id} ${status} ${header} was seen`);
    }
  }
});

/** All that features keep; not what the service itself needs to respond at all. */
async function tablesOf(url: string): Promise<string[]> {
  const { rows } = await withClient(url, (client) =>
    client.query<{ name: string }>(
      `select tablename as name from pg_tables
        where schemaname = 'public' and tablename not in ('schema_migration', 'idempotency_record')`,
    ),
  );
  return rows.map(({ name }) => `"${name}"`);
}

const JSON_TYPE = { 'content-type': 'application/json' };

/** The name of a table while it is away. */
function gone(table: string): string {
  return table.replace(/"$/, '_gone"');
}

function without(fixture: RequestFixture, part: keyof RequestFixture): RequestFixture {
  return Object.fromEntries(Object.entries(fixture).filter(([name]) => name !== part));
}

function sql(url: string, text: string): Promise<unknown> {
  return withClient(url, (client) => client.query(text));
}

/** Nobody else can read or write the table until `work` ends; `waiting` resolves when somebody wants to. */
async function whileLocked<T>(
  url: string,
  table: string,
  work: (waiting: () => Promise<void>) => Promise<T>,
): Promise<T> {
  // One at a time: a waiter must be the request that `work` made.
  const turn = lockTurn;
  let end = () => undefined as void;
  lockTurn = new Promise((done) => (end = done));
  await turn;
  return withClient(url, async (client) => {
    await client.query(`begin; lock table ${table} in access exclusive mode`);
    const answer = await work(async () => {
      const waiters = `select from pg_locks join pg_database on pg_database.oid = pg_locks.database
        where not granted and datname = current_database()`;
      while ((await client.query(waiters)).rowCount === 0) await delay(10);
    });
    await client.query('rollback');
    return answer;
  }).finally(end);
}

let lockTurn = Promise.resolve();

t.test('the page and its files answer without a key, to HEAD, and with 304 to who has them', async (t) => {
  const { request } = await startTestApp(t);
  const page = (await request('GET', '/docs')).text;
  const files = [...page.matchAll(/(?:href|src)="(docs\/[^"]+)"/g)].map(([, name]) => `/${name}`);
  t.equal(files.length, 4, page);

  for (const url of ['/openapi.json', '/docs', ...files]) {
    const { status, headers, text } = await request('GET', url, { headers: { accept: 'text/html' } });
    t.match(
      { status, headers },
      { status: 200, headers: { 'cache-control': 'no-cache', etag: /^".+"$/ } },
      url,
    );
    const head = await request('HEAD', url);
    t.equal(head.text, '', url);
    t.equal(head.headers['content-length'], headers['content-length'], url);
    t.equal(head.headers['content-type'], headers['content-type'], url);
    t.equal(head.headers['x-content-type-options'], 'nosniff', url);
    const again = await request('GET', url, { headers: { 'if-none-match': String(headers.etag) } });
    t.match({ status: again.status, text: again.text }, { status: 304, text: '' }, url);
    t.equal((await request('GET', url, { headers: { 'if-none-match': '"old"' } })).text, text, url);
  }
  for (const url of [
    '/docs/unknown',
    '/docs/a/b',
    '/docs/static/swagger-ui.css',
    '/docs/..%2fpackage.json',
  ]) {
    const { status, json } = await request('GET', url);
    t.match({ status, json }, { status: 404, json: { code: 'not_found' } }, url);
  }
  t.equal((await request('GET', '/docs/')).headers.location, '../docs');
  t.notMatch((await request('GET', '/docs/unknown')).headers['content-security-policy'], 'self');
});

t.test('DOCS_ENABLED=false leaves neither the page nor the document', async (t) => {
  const { request } = await startTestApp(t, { DOCS_ENABLED: 'false' });
  for (const url of ['/openapi.json', '/docs', '/docs/', '/docs/start.js']) {
    const { status, json } = await request('GET', url);
    t.match({ status, json }, { status: 404, json: { code: 'not_found' } }, url);
  }
});

t.test('the page works in a browser, offline and under its own policy, and tries a request', async (t) => {
  const chromium = process.env.CHROMIUM_PATH ?? requireTool(t, 'chromium');
  if (!chromium) return;
  const { app, issueKey, request } = await startTestApp(t, { MAX_EVENT_LOOP_DELAY_MS: '0' });
  const { token } = await issueKey({ name: 'seen-in-the-browser', scopes: ['keys:admin'] });
  await app.listen({ host: '127.0.0.1', port: 0 });
  // Not a loopback name: for those the page and the browser make exceptions.
  const origin = `http://docs.test:${(app.server.address() as AddressInfo).port}`;
  const { page, faults, urls } = await openBrowser(t, chromium, 'docs.test');

  await page.goto(`${origin}/docs`);
  await page.waitForSelector('.opblock');
  const operations = operationsOf((await request('GET', '/openapi.json')).json);
  t.equal(await page.locator('.opblock').count(), operations.length, 'every operation is there');
  t.match(await page.locator('.info').innerText(), 'Hardpoint');

  await page.getByRole('button', { name: 'Authorize' }).first().click();
  await page.locator('#auth-bearer-value').fill(token);
  await page.getByRole('button', { name: 'Apply credentials' }).first().click();
  await page.getByRole('button', { name: 'Close' }).first().click();
  const operation = page.locator('#operations-api-keys-listApiKeys');
  await operation.locator('.opblock-summary-control').click();
  await operation.getByRole('button', { name: 'Try it out' }).click();
  await operation.getByRole('button', { name: 'Execute' }).click();
  const answer = operation.locator('.live-responses-table');
  await answer.waitFor();
  t.match(await answer.locator('.response-col_status').last().innerText(), '200');
  t.match(await answer.innerText(), 'seen-in-the-browser');
  t.match(await answer.innerText(), 'x-request-id');
  if (process.env.SCREENSHOT) await page.screenshot({ path: process.env.SCREENSHOT, fullPage: true });

  const stored = 'JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])';
  t.notMatch(String(await page.evaluate(stored)), token, 'the key is nowhere but in the page');
  t.same(faults, []);
  t.same([...new Set(urls.map((url) => new URL(url).origin))], [origin]);
  t.ok(urls.some((url) => url.startsWith(`${origin}/v1/api-keys`)));
});

/** A browser of its own; `faults` are what its console, its pages and their policies complain of. */
async function openBrowser(t: Test, executablePath: string, hostname: string) {
  // Half a second to load, and for this test only.
  const { chromium } = await import('playwright-core');
  const profile = makeDataFolder('hardpoint-browser-');
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      `--host-resolver-rules=MAP ${hostname} 127.0.0.1`,
    ],
  });
  t.teardown(async () => {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  });
  const page = await context.newPage();
  const faults: string[] = [];
  const urls: string[] = [];
  page.on('console', (message) => {
    if (message.type() !== 'log') faults.push(message.text());
  });
  page.on('pageerror', (error) => faults.push(error.message));
  page.on('requestfailed', (request) => faults.push(`failed: ${request.url()}`));
  page.on('response', (response) => {
    if (response.status() >= 400) faults.push(`${response.status()} ${response.url()}`);
  });
  // data: URLs leave nothing and nobody.
  page.on('request', (request) => void (request.url().startsWith('data:') || urls.push(request.url())));
  page.setDefaultTimeout(15_000);
  return { page, faults, urls };
}
