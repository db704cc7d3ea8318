import type { Field, Names } from './names.ts';

/** What `--with` adds to the plain resource. */
export const EXTRAS = ['cache', 'idempotency'];

export interface Resource extends Names {
  fields: Field[];
  cache: boolean;
  idempotency: boolean;
}

interface TypeForm {
  sql: (column: string) => string;
  /** How a statement reads it, where that is not the column itself. */
  read?: (column: string) => string;
  /** What a client sends, and what it gets. */
  input: string;
  output: string;
  example: string;
}

const FORMS: Record<Field['type'], TypeForm> = {
  text: {
    sql: (column) => `text @ check (char_length(${column}) between 1 and 200)`,
    input: 'text(200)',
    output: 'z.string()',
    example: `'Example'`,
  },
  int: {
    sql: () => 'integer @',
    input: 'z.int32()',
    output: 'z.int()',
    example: '1',
  },
  number: { sql: () => 'double precision @', input: 'z.number()', output: 'z.number()', example: '1.5' },
  boolean: { sql: () => 'boolean @', input: 'z.boolean()', output: 'z.boolean()', example: 'true' },
  date: {
    sql: () => 'date @',
    read: (column) => `to_char(${column}, 'YYYY-MM-DD')`,
    input: 'date',
    output: 'z.iso.date()',
    example: `'2026-01-31'`,
  },
  timestamp: {
    sql: () => 'timestamptz @',
    read: (column) => `\${utcText('${column}')}`,
    input: 'timestamp',
    output: 'z.iso.datetime()',
    example: `'2026-01-31T12:00:00.000Z'`,
  },
  uuid: {
    sql: () => 'uuid @',
    input: 'uuid',
    output: 'z.uuid()',
    example: `'01936a3e-7d3c-7000-8000-000000000000'`,
  },
};

export function writeMigration({ plural, table, fields, text }: Resource): string {
  const columns = fields.map(({ column, type, optional }) => {
    return `  ${column} ${FORMS[type].sql(column).replace(/ @/, optional ? '' : ' not null')},\n`;
  });
  return `-- Belongs to src/features/${plural}: delete this file together with that folder.

-- Up Migration
create table ${table} (
  -- UUIDv7 made by the service: the order of ids is the order of creation, so a list needs no other index.
  id uuid not null,
  tenant text not null check (tenant ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
${columns.join('')}  -- Counts the changes; the ETag carries it.
  version integer not null default 1 check (version >= 1),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant, id)
);

-- Down Migration
-- Every ${text} is lost.
drop table ${table};
`;
}

export function writeSchema({ pascal, pluralPascal, pluralText, fields }: Resource): string {
  const helpers = ['text', 'date', 'timestamp'].filter((type) => fields.some((field) => field.type === type));
  const inputs = fields.map(
    ({ name, type, optional }) => `${name}: ${FORMS[type].input}${optional ? '.nullable()' : ''},`,
  );
  const news = fields.map(
    ({ name, optional }) => `${name}: fields.${name}${optional ? '.default(null)' : ''},`,
  );
  const changes = fields.map(({ name }) => `${name}: fields.${name}.optional(),`);
  const outputs = fields.map(
    ({ name, type, optional }) => `${name}: ${FORMS[type].output}${optional ? '.nullable()' : ''},`,
  );
  const examples = fields.map(({ name, type }) => `${name}: ${FORMS[type].example}`);
  return `import { z } from 'zod';
import { nextCursor, paging } from '../../http/resource/pagination.ts';
import { ${[...helpers, 'uuid'].join(', ')} } from '../../http/resource/zod-types.ts';

/** The only definition of what goes in and out of ${pluralText}; checks, types and the OpenAPI document come from it. */
const fields = {
${inputs.join('\n')}
};

export const New${pascal} = z
  .strictObject({ ${news.join(' ')} })
  .meta({ id: 'New${pascal}', examples: [{ ${examples.join(', ')} }] });
export type New${pascal} = z.infer<typeof New${pascal}>;

export const ${pascal}Change = z
  .strictObject({ ${changes.join(' ')} })
  .refine((change) => Object.keys(change).length > 0, 'name at least one field to change')
  .meta({ id: '${pascal}Change', minProperties: 1, examples: [{ ${examples[0]} }] });
export type ${pascal}Change = z.infer<typeof ${pascal}Change>;

export const ${pascal} = z
  .object({
    id: z.uuid(),
    ${outputs.join('\n')}
    version: z.int().describe('Grows with every change; the ETag carries it'),
    createdAt: z.iso.datetime(),
    updatedAt: z.iso.datetime(),
  })
  .meta({ id: '${pascal}' });
export type ${pascal} = z.infer<typeof ${pascal}>;

export const ${pascal}Id = z.strictObject({ id: uuid });
export const ${pascal}List = z.strictObject(paging);
export const ${pluralPascal}Page = z.object({ data: z.array(${pascal}), next: nextCursor }).meta({ id: '${pluralPascal}Page' });
`;
}

export function writeRepository({ pascal, camel, table, statement, text, fields }: Resource): string {
  const read = fields.map(({ name, column, type }) => {
    const value = FORMS[type].read?.(column) ?? column;
    return value === name ? value : `${value} as "${name}"`;
  });
  const columns = fields.map(({ column }) => column).join(', ');
  const values = (of: string) => fields.map(({ name }) => `${of}.${name}`).join(', ');
  const places = fields.map((_, index) => `$${index + 3}`).join(', ');
  const sets = fields.map(({ column }, index) => `${column} = $${index + 4}`).join(', ');
  return `import { utcText } from '../../postgres/utc.ts';
import type { Tx } from '../../postgres/postgres.ts';
import type { ${pascal}, New${pascal} } from './schema.ts';

const COLUMNS = \`id, ${read.join(', ')}, version,
  \${utcText('created_at')} as "createdAt", \${utcText('updated_at')} as "updatedAt"\`;

/** The SQL of this resource. Every statement names the tenant: another tenant's ${text} is not there. */
export const ${camel}Sql = {
  async insert(tx: Tx, tenant: string, id: string, wanted: New${pascal}): Promise<${pascal}> {
    const [row] = await tx.query<${pascal}>({
      name: '${statement}_insert',
      text: \`insert into ${table} (id, tenant, ${columns}) values ($1, $2, ${places}) returning \${COLUMNS}\`,
      values: [id, tenant, ${values('wanted')}],
    });
    return row as ${pascal};
  },

  async find(tx: Tx, tenant: string, id: string): Promise<${pascal} | undefined> {
    const [row] = await tx.query<${pascal}>({
      name: '${statement}_find',
      text: \`select \${COLUMNS} from ${table} where tenant = $1 and id = $2\`,
      values: [tenant, id],
    });
    return row;
  },

  /** Newest first; \`before\` is the id that the page starts before. */
  list(tx: Tx, tenant: string, limit: number, before: string | undefined): Promise<${pascal}[]> {
    const condition = before === undefined ? '' : 'and id < $3';
    return tx.query<${pascal}>({
      name: before === undefined ? '${statement}_list' : '${statement}_list_before',
      text: \`select \${COLUMNS} from ${table} where tenant = $1 \${condition} order by id desc limit $2\`,
      values: before === undefined ? [tenant, limit] : [tenant, limit, before],
    });
  },

  /** Undefined when the row is gone or has another version by now. */
  async update(tx: Tx, tenant: string, wanted: ${pascal}): Promise<${pascal} | undefined> {
    const [row] = await tx.query<${pascal}>({
      name: '${statement}_update',
      text: \`update ${table} set ${sets}, version = version + 1, updated_at = now()
        where tenant = $1 and id = $2 and version = $3 returning \${COLUMNS}\`,
      values: [tenant, wanted.id, wanted.version, ${values('wanted')}],
    });
    return row;
  },

  /** True when this version of the row was deleted. */
  async remove(tx: Tx, tenant: string, { id, version }: ${pascal}): Promise<boolean> {
    const rows = await tx.query({
      name: '${statement}_remove',
      text: 'delete from ${table} where tenant = $1 and id = $2 and version = $3 returning id',
      values: [tenant, id, version],
    });
    return rows.length === 1;
  },
};
`;
}

export function writeService(resource: Resource): string {
  const { pascal, camel, statement, text, pluralText, cache, idempotency } = resource;
  const lines = (when: boolean, code: string) => (when ? `${code}\n` : '');
  const written = (transaction: string) => (cache ? `written(caller, id, ${transaction})` : transaction);
  const caller = cache ? 'caller: Caller' : '{ tenant }: Caller';
  const unpacked = cache ? 'const { tenant } = caller;\n' : '';
  const create = idempotency
    ? `/** \`once\` runs the work in a transaction, unless an earlier request did it. */
    create<T>(${caller}, wanted: New${pascal}, once: (work: (tx: Tx) => Promise<${pascal}>) => Promise<T>): Promise<T> {
      ${unpacked}const id = uuidv7();
      return ${written(`once((tx) => ${camel}Sql.insert(tx, tenant, id, wanted))`)};
    },`
    : `create(${caller}, wanted: New${pascal}): Promise<${pascal}> {
      ${unpacked}const id = uuidv7();
      return ${written(`${camel}Sql.insert(db, tenant, id, wanted)`)};
    },`;
  const get = cache
    ? `/** Throws \`not_found\`. */
    async get({ tenant, requestId }: Caller, id: string, format: ResponseFormat): Promise<CacheEntry<${pascal}>> {
      const load = () => ${camel}Sql.find(db, tenant, id);
      const entry = await cache.read(cacheKey(tenant, id), load, { shape: SHAPE, requestId, ...format });
      if (entry.json === undefined) throw notFound();
      return entry;
    },`
    : `/** Throws \`not_found\`. */
    async get({ tenant }: Caller, id: string): Promise<${pascal}> {
      const found = await ${camel}Sql.find(db, tenant, id);
      if (!found) throw notFound();
      return found;
    },`;
  return `import { uuidv7 } from 'uuidv7';
import type { Caller } from '../../auth/caller.ts';
${lines(
  cache,
  `import type { AfterWrite } from '../../cache/after-write.ts';
import type { Cache, CacheReadOptions } from '../../cache/cache.ts';
import type { CacheEntry } from '../../cache/entry.ts';
import { shapeOf } from '../../cache/serialization.ts';`,
)}import { AppError } from '../../errors.ts';
import { versionEtag, type Precondition } from '../../http/resource/etag.ts';
import type { Db, Tx } from '../../postgres/postgres.ts';
import { ${camel}Sql } from './repository.ts';
${cache ? `import { ${pascal}, type ${pascal}Change, type New${pascal} } from './schema.ts';` : `import type { ${pascal}, ${pascal}Change, New${pascal} } from './schema.ts';`}

export interface ${pascal}ServiceDeps {
  db: Db;
${lines(cache, '  cache: Cache;\n  afterWrite: AfterWrite;')}}
${lines(
  cache,
  `
const SHAPE = shapeOf(${pascal});
const cacheKey = (tenant: string, id: string) => ({ tenant, name: '${statement}', id });
/** How the HTTP side wants what it will send. */
type ResponseFormat = Pick<CacheReadOptions<${pascal}>, 'write' | 'etagOf'>;`,
)}
/** The rules of ${pluralText}; knows neither HTTP nor SQL. */
export function create${pascal}Service({ ${cache ? 'db, cache, afterWrite' : 'db'} }: ${pascal}ServiceDeps) {
${lines(
  cache,
  `  async function written<T>({ tenant, requestId }: Caller, id: string, transaction: Promise<T>): Promise<T> {
    return (await afterWrite(transaction, { tenant, requestId, cached: [cacheKey(tenant, id)] })).result;
  }
`,
)}
  async function current(tx: Tx, tenant: string, id: string, isKnown: Precondition): Promise<${pascal}> {
    const found = await ${camel}Sql.find(tx, tenant, id);
    if (!found) throw notFound();
    if (!isKnown(versionEtag(found.version))) throw staleVersion();
    return found;
  }

  return {
    ${create}

    ${get}

    list({ tenant }: Caller, limit: number, before: string | undefined): Promise<${pascal}[]> {
      return ${camel}Sql.list(db, tenant, limit, before);
    },

    /** Throws \`not_found\` and \`precondition_failed\`. */
    change(${caller}, id: string, isKnown: Precondition, change: ${pascal}Change): Promise<${pascal}> {
      ${unpacked}const changed = db.transaction(async (tx) => {
        const before = await current(tx, tenant, id, isKnown);
        const after = await ${camel}Sql.update(tx, tenant, { ...before, ...change } as ${pascal});
        if (!after) throw staleVersion();
        return after;
      });
      return ${written('changed')};
    },

    /** Throws \`not_found\` and \`precondition_failed\`. */
    async remove(${caller}, id: string, isKnown: Precondition): Promise<void> {
      ${unpacked}const removed = db.transaction(async (tx) => {
        if (!(await ${camel}Sql.remove(tx, tenant, await current(tx, tenant, id, isKnown)))) throw staleVersion();
      });
      await ${written('removed')};
    },
  };
}

function notFound(): AppError {
  return new AppError('not_found', 'There is no ${text} with this id');
}

function staleVersion(): AppError {
  return new AppError('precondition_failed', 'It was changed in the meantime; read it again');
}
`;
}

export function writeRoutes(resource: Resource): string {
  const { plural, pluralCamel, pascal, pluralPascal, text, pluralText, cache, idempotency } = resource;
  const operation = (verb: string, name: string) => `tags: TAGS,\n        operationId: '${verb}${name}',`;
  const create = idempotency
    ? `const { headers, body } = await service.create(callerOf(request), request.body, (create) =>
        idempotency.run(request.idempotency, async (tx) => {
          const created = await create(tx);
          const location = \`/v1/${plural}/\${created.id}\`;
          return { status: 201, headers: { location, etag: versionEtag(created.version) }, body: created };
        }),
      );
      return reply.code(201).headers(headers).send(body as schema.${pascal});`
    : `const created = await service.create(callerOf(request), request.body);
      reply.header('location', \`/v1/${plural}/\${created.id}\`).header('etag', versionEtag(created.version));
      return reply.code(201).send(created);`;
  const get = cache
    ? `const { etag, ageSeconds, json } = await service.get(callerOf(request), request.params.id, {
        etagOf: ({ version }) => versionEtag(version),
        write: reply.getSerializationFunction('200'),
      });
      reply.header('etag', etag).header('cache-control', 'private, no-cache').header('age', ageSeconds);
      if (matchesEtag(request.headers['if-none-match'], etag)) return reply.code(304).send();
      // The cache keeps what the serializer of this route wrote.
      return reply.type('application/json; charset=utf-8').send(json as never);`
    : `const found = await service.get(callerOf(request), request.params.id);
      const etag = versionEtag(found.version);
      reply.header('etag', etag).header('cache-control', 'private, no-cache');
      if (matchesEtag(request.headers['if-none-match'], etag)) return reply.code(304).send();
      return reply.send(found);`;
  return `import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import { callerOf } from '../../auth/caller.ts';
import { UUID, type Cursors } from '../../http/resource/pagination.ts';
import {
  IfMatchHeader,
  IfNoneMatchHeader,
  matchesEtag,
  requireIfMatch,
  versionEtag,
} from '../../http/resource/etag.ts';
import type { ZodProvider } from '../../http/resource/zod-types.ts';
${idempotency ? "import { IdempotencyKeyHeader, type Idempotency } from '../../idempotency/repository.ts';\n" : ''}import * as schema from './schema.ts';
import { create${pascal}Service, type ${pascal}ServiceDeps } from './service.ts';

interface ${pascal}RoutesOptions extends ${pascal}ServiceDeps {
  cursors: Cursors;
${idempotency ? '  idempotency: Idempotency;\n' : ''}}

const TAGS = ['${plural}'];
const BY_ID = '/${plural}/:id';

/** HTTP of ${pluralText}: takes from the request, calls the service, responds. */
export async function ${pluralCamel}(scope: FastifyInstance, options: ${pascal}RoutesOptions): Promise<void> {
  const app = scope.withTypeProvider<ZodProvider>();
${idempotency ? '  const { idempotency } = options;\n' : ''}  const pages = options.cursors.of('${plural}', UUID);
  const service = create${pascal}Service(options);

  app.post(
    '/${plural}',
    {
      config: { scope: '${plural}:write'${idempotency ? ', idempotent: true' : ''} },
      schema: {
        ${operation('create', pascal)}
        summary: 'Create: ${text}',
${idempotency ? '        headers: IdempotencyKeyHeader,\n' : ''}        body: schema.New${pascal},
        response: { 201: schema.${pascal} },
        responseHeaders: ['Location', 'ETag'],
      },
    },
    async (request, reply) => {
      ${create}
    },
  );

  app.get(
    BY_ID,
    {
      config: { scope: '${plural}:read' },
      schema: {
        ${operation('get', pascal)}
        summary: 'Read: ${text}',
        params: schema.${pascal}Id,
        headers: IfNoneMatchHeader,
        response: { 200: schema.${pascal}, 304: z.null().describe('Unchanged since the ETag in If-None-Match') },
        responseHeaders: ['ETag'${cache ? ", 'Age'" : ''}],
      },
    },
    async (request, reply) => {
      ${get}
    },
  );

  app.get(
    '/${plural}',
    {
      config: { scope: '${plural}:read' },
      schema: {
        ${operation('list', pluralPascal)}
        summary: 'List, newest first: ${pluralText}',
        querystring: schema.${pascal}List,
        response: { 200: schema.${pluralPascal}Page },
      },
    },
    async (request) => {
      const { cursor, limit } = request.query;
      const data = await service.list(callerOf(request), limit, pages.before(cursor));
      return { data, next: pages.next(data, limit) };
    },
  );

  app.patch(
    BY_ID,
    {
      config: { scope: '${plural}:write' },
      schema: {
        ${operation('change', pascal)}
        summary: 'Change: ${text}',
        params: schema.${pascal}Id,
        headers: IfMatchHeader,
        body: schema.${pascal}Change,
        response: { 200: schema.${pascal} },
        responseHeaders: ['ETag'],
      },
    },
    async (request, reply) => {
      const isKnown = requireIfMatch(request.headers['if-match']);
      const changed = await service.change(callerOf(request), request.params.id, isKnown, request.body);
      reply.header('etag', versionEtag(changed.version));
      return changed;
    },
  );

  app.delete(
    BY_ID,
    {
      config: { scope: '${plural}:write' },
      schema: {
        ${operation('delete', pascal)}
        summary: 'Delete: ${text}',
        params: schema.${pascal}Id,
        headers: IfMatchHeader,
        response: { 204: z.null().describe('Deleted') },
      },
    },
    async (request, reply) => {
      await service.remove(callerOf(request), request.params.id, requireIfMatch(request.headers['if-match']));
      return reply.code(204).send();
    },
  );
}
`;
}

export function writeTest({ plural, fields }: Resource): string {
  const examples = fields.map(({ name, type }) => `${name}: ${FORMS[type].example}`);
  return `import t from 'tap';
import { startTestApp } from '../support/app.ts';

const URL = '/v1/${plural}';
const EXAMPLE = { ${examples.join(', ')} };

t.test('create, read, list, change and delete', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token } = await issueKey({ scopes: ['${plural}:read', '${plural}:write'] });

  const created = await request('POST', URL, { token, body: EXAMPLE });
  t.equal(created.status, 201, created.text);
  t.match(created.json, { ...EXAMPLE, version: 1 });
  const one = String(created.headers.location);

  const read = await request('GET', one, { token });
  t.same(read.json, created.json);
  const etag = String(read.headers.etag);
  const unchanged = await request('GET', one, { token, headers: { 'if-none-match': etag } });
  t.equal(unchanged.status, 304);

  const { json: second } = await request('POST', URL, { token, body: EXAMPLE });
  const page = await request('GET', \`\${URL}?limit=1\`, { token });
  t.same(page.json.data, [second], 'the newest comes first');
  const next = await request('GET', \`\${URL}?limit=1&cursor=\${page.json.next}\`, { token });
  t.same(next.json.data, [created.json]);

  const change = { ${examples[0]} };
  const changed = await request('PATCH', one, { token, body: change, headers: { 'if-match': etag } });
  t.match(changed.json, { ...change, version: 2 }, changed.text);
  t.equal((await request('GET', one, { token })).json.version, 2);

  const newest = { 'if-match': String(changed.headers.etag) };
  t.equal((await request('DELETE', one, { token, headers: newest })).status, 204);
  t.equal((await request('GET', one, { token })).status, 404);
});

t.test('what another tenant has is not there', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token } = await issueKey();
  const { token: stranger } = await issueKey({ tenant: 'other' });
  const created = await request('POST', URL, { token, body: EXAMPLE });
  const one = String(created.headers.location);
  const headers = { 'if-match': String(created.headers.etag) };

  t.equal((await request('GET', one, { token: stranger })).status, 404);
  t.equal((await request('PATCH', one, { token: stranger, headers, body: EXAMPLE })).status, 404);
  t.equal((await request('DELETE', one, { token: stranger, headers })).status, 404);
  t.same((await request('GET', URL, { token: stranger })).json.data, []);
});

t.test('a change that does not know the current version is refused', async (t) => {
  const { request, issueKey } = await startTestApp(t);
  const { token } = await issueKey();
  const created = await request('POST', URL, { token, body: EXAMPLE });
  const one = String(created.headers.location);

  t.equal((await request('PATCH', one, { token, body: EXAMPLE })).status, 428);
  t.equal((await request('PATCH', one, { token, body: EXAMPLE, headers: { 'if-match': '"9"' } })).status, 412);
  t.equal((await request('POST', URL, { token, body: { ...EXAMPLE, unknown: 1 } })).status, 400);
});
`;
}
