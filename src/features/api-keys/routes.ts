import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { AppError } from '../../errors.ts';
import type { ApiKeyAdmin } from '../../auth/administration.ts';
import { apiKeySql, type ApiKey, type ApiKeyChange } from '../../auth/repository.ts';
import type { Cursors } from '../../http/resource/pagination.ts';
import { callerOf } from '../../auth/caller.ts';
import { IfMatchHeader, requireIfMatch } from '../../http/resource/etag.ts';
import { IdempotencyKeyHeader, type Idempotency, type StoredResponse } from '../../idempotency/repository.ts';
import type { Db } from '../../postgres/postgres.ts';
import type { ZodProvider } from '../../http/resource/zod-types.ts';
import { auditRoutes } from './audit-routes.ts';
import { actorOf, etagOf, tellPropagation, toResponse } from './mapper.ts';
import { refuseMoreThanOwn } from './rights.ts';
import * as schema from './schema.ts';

interface ApiKeyRoutesOptions {
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
  const refuseMore = (request: FastifyRequest, other: ApiKeyChange) =>
    refuseMoreThanOwn(callerOf(request).principal, defaultLimit, other);

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
      const wanted = { tenant, ...request.body };
      refuseMore(request, wanted);
      const response = await admin.create(wanted, actorOf(request), (create) =>
        idempotency.run(request.idempotency, async (tx) => toResponse(await create(tx))),
      );
      return sendIssued(reply, response);
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
      return { data: keys, next: pages.next(keys, limit) };
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
      return key;
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
        headers: IfMatchHeader,
        body: schema.ApiKeyChange,
        response: { 200: schema.ApiKey },
        responseHeaders: ['ETag', 'Propagation-Delay'],
      },
    },
    async (request, reply) => {
      const isKnown = requireIfMatch(request.headers['if-match']);
      refuseMore(request, request.body);
      const check = (current: ApiKey) => {
        refuseMore(request, current);
        if (isKnown(etagOf(current))) return;
        throw new AppError('precondition_failed', 'The key was changed in the meantime; read it again');
      };
      const { tenant } = callerOf(request);
      const { id } = request.params;
      const { result, everywhere } = await admin.change(tenant, id, request.body, actorOf(request), check);
      tellPropagation(reply, everywhere).header('etag', etagOf(result));
      return result;
    },
  );

  app.post(
    '/api-keys/:id/rotate',
    {
      config: { ...ADMIN, idempotent: 'sealed' },
      schema: {
        tags: TAGS,
        operationId: 'rotateApiKey',
        summary: 'Replace a key by a new one with the same rights',
        params: schema.ApiKeyId,
        headers: IdempotencyKeyHeader,
        body: schema.RotateApiKey,
        response: { 201: schema.IssuedApiKey },
        responseHeaders: ['Location', 'ETag', 'Propagation-Delay'],
        failures: ['conflict'],
      },
    },
    async (request, reply) => {
      const { result, everywhere } = await admin.rotate(
        callerOf(request).tenant,
        request.params.id,
        request.body.overlapSeconds,
        actorOf(request),
        (current) => refuseMore(request, current),
        (rotate) => idempotency.run(request.idempotency, async (tx) => toResponse(await rotate(tx))),
      );
      return sendIssued(tellPropagation(reply, everywhere), result);
    },
  );

  app.delete(
    '/api-keys/:id',
    {
      config: ADMIN,
      schema: {
        tags: TAGS,
        operationId: 'revokeApiKey',
        summary: 'Revoke a key, for ever and on every process',
        params: schema.ApiKeyId,
        response: { 204: z.null().describe('Revoked') },
        responseHeaders: ['Propagation-Delay'],
      },
    },
    async (request, reply) => {
      const { tenant } = callerOf(request);
      const check = (current: ApiKey) => refuseMore(request, current);
      const { everywhere } = await admin.revoke(tenant, request.params.id, actorOf(request), check);
      return tellPropagation(reply, everywhere).code(204).send();
    },
  );

  auditRoutes(scope, options);
}

function sendIssued(reply: FastifyReply, { headers, body }: StoredResponse): FastifyReply {
  return reply.code(201).headers(headers).send(body);
}
