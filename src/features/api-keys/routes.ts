import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import { AppError } from '../../errors.ts';
import type { ApiKeyAdmin } from '../../auth/administration.ts';
import { apiKeySql, type ApiKey } from '../../auth/repository.ts';
import type { Cursors } from '../../http/resource/cursor.ts';
import { requireIfMatch } from '../../http/resource/etag.ts';
import { IdempotencyKeyHeader, type Idempotency } from '../../idempotency/repository.ts';
import type { Db } from '../../postgres/postgres.ts';
import type { ZodProvider } from '../../http/resource/zod-types.ts';
import { auditRoutes } from './audit-routes.ts';
import { actorOf, callerOf, refuseMoreThanOwn } from '../../auth/caller.ts';
import { endingRoutes } from './ending-routes.ts';
import { dateOf, etagOf, tellPropagation, toAnswer, toJson } from './representation.ts';
import * as schema from './schema.ts';

export interface ApiKeyRoutesOptions {
  db: Db;
  admin: ApiKeyAdmin;
  idempotency: Idempotency;
  cursors: Cursors;
  /** Requests a minute of a key without a limit of its own. */
  defaultLimit: number;
}

const TAGS = ['api-keys'];
const ADMIN = { scope: 'keys:admin' };

/** The keys of one's own tenant, and the trail of what was done to them. */
export async function apiKeys(scope: FastifyInstance, options: ApiKeyRoutesOptions): Promise<void> {
  const { db, admin, idempotency, defaultLimit } = options;
  const pages = options.cursors.of('api-keys', schema.KEY_ID);
  const app = scope.withTypeProvider<ZodProvider>();

  app.post(
    '/api-keys',
    {
      config: { ...ADMIN, idempotent: 'sealed' },
      schema: {
        tags: TAGS,
        operationId: 'createApiKey',
        summary: 'Create a key',
        headers: IdempotencyKeyHeader,
        body: schema.NewApiKey,
        response: { 201: schema.IssuedApiKey },
        responseHeaders: ['Location', 'ETag'],
      },
    },
    async (request, reply) => {
      const { tenant } = callerOf(request);
      const { name, scopes, limitPerMinute, expiresAt } = request.body;
      const wanted = { tenant, name, scopes, limitPerMinute, expiresAt: dateOf(expiresAt) };
      refuseMoreThanOwn(request, defaultLimit, wanted);
      const answer = await admin.create(wanted, actorOf(request), (create) =>
        idempotency.run(request.idempotency, async (tx) => toAnswer(await create(tx))),
      );
      return reply
        .code(201)
        .headers(answer.headers)
        .send(answer.body as schema.IssuedApiKey);
    },
  );

  app.get(
    '/api-keys',
    {
      config: ADMIN,
      schema: {
        tags: TAGS,
        operationId: 'listApiKeys',
        summary: 'List keys, newest first',
        querystring: schema.PageQuery,
        response: { 200: schema.ApiKeyPage },
      },
    },
    async (request) => {
      const { limit, cursor } = request.query;
      const keys = await apiKeySql.list(db, callerOf(request).tenant, limit, pages.before(cursor));
      return { data: keys.map(toJson), next: pages.next(keys, limit) };
    },
  );

  app.get(
    '/api-keys/:id',
    {
      config: ADMIN,
      schema: {
        tags: TAGS,
        operationId: 'getApiKey',
        summary: 'Read a key',
        params: schema.ApiKeyId,
        response: { 200: schema.ApiKey },
        responseHeaders: ['ETag'],
      },
    },
    async (request, reply) => {
      const key = await apiKeySql.find(db, callerOf(request).tenant, request.params.id);
      if (!key) throw new AppError('not_found', 'There is no such key');
      reply.header('etag', etagOf(key));
      return toJson(key);
    },
  );

  app.patch(
    '/api-keys/:id',
    {
      config: ADMIN,
      schema: {
        tags: TAGS,
        operationId: 'changeApiKey',
        summary: 'Change name, scopes, limit or expiry of a key',
        params: schema.ApiKeyId,
        headers: IfMatch,
        body: schema.ApiKeyChange,
        response: { 200: schema.ApiKey },
        responseHeaders: ['ETag', 'Propagation-Delay'],
      },
    },
    async (request, reply) => {
      const { params, body } = request;
      const isKnown = requireIfMatch(request.headers['if-match']);
      const { expiresAt, ...rest } = body;
      const change = {
        ...withoutUndefined(rest),
        ...(expiresAt === undefined ? {} : { expiresAt: dateOf(expiresAt) }),
      };
      refuseMoreThanOwn(request, defaultLimit, change);
      const check = (current: ApiKey) => {
        refuseMoreThanOwn(request, defaultLimit, current);
        if (isKnown(etagOf(current))) return;
        throw new AppError('precondition_failed', 'The key was changed in the meantime; read it again');
      };
      const { tenant } = callerOf(request);
      const { result, everywhere } = await admin.change(tenant, params.id, change, actorOf(request), check);
      tellPropagation(reply, everywhere).header('etag', etagOf(result));
      return toJson(result);
    },
  );

  endingRoutes(scope, options);
  auditRoutes(scope, options);
}

/** Stated for the document; absence is 428 and told by `requireIfMatch`, not 400. */
const IfMatch = z.looseObject({
  'if-match': z.string().optional().describe('ETag of the key as you know it; required'),
});

function withoutUndefined<T extends object>(value: T) {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>;
  };
}
