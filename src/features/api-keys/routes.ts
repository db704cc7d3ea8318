import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { AppError } from '../../errors.ts';
import type { ApiKeyAdmin } from '../../stores/api-key-admin.ts';
import { apiKeySql, type ApiKey } from '../../stores/api-keys.ts';
import { auditSql, type Actor } from '../../stores/audit.ts';
import { UUID, type Cursors } from '../../stores/cursor.ts';
import { hasScope } from '../../stores/key-ring.ts';
import type { Db } from '../../stores/postgres.ts';
import type { ZodProvider } from '../../zod-provider.ts';
import * as schema from './schema.ts';

export interface ApiKeyRoutesOptions {
  db: Db;
  admin: ApiKeyAdmin;
  cursors: Cursors;
}

const TAGS = ['api-keys'];
const ADMIN = { scope: 'keys:admin' };

/** The keys of one's own tenant, and the trail of what was done to them. */
export async function apiKeys(
  scope: FastifyInstance,
  { db, admin, cursors }: ApiKeyRoutesOptions,
): Promise<void> {
  const app = scope.withTypeProvider<ZodProvider>();

  app.post(
    '/api-keys',
    {
      config: ADMIN,
      schema: {
        tags: TAGS,
        operationId: 'createApiKey',
        summary: 'Create a key',
        body: schema.NewApiKey,
        response: { 201: schema.IssuedApiKey },
        answerHeaders: ['Location'],
      },
    },
    async (request, reply) => {
      const { tenant } = callerOf(request);
      const { name, scopes, limitPerMinute, expiresAt } = request.body;
      refuseMoreThanOwn(request, scopes);
      const wanted = { tenant, name, scopes, limitPerMinute, expiresAt: dateOf(expiresAt) };
      const { key, token } = await admin.create(wanted, actorOf(request));
      return reply
        .code(201)
        .header('location', `/v1/api-keys/${key.id}`)
        .send({ ...toJson(key), token });
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
      const before = cursor === undefined ? undefined : cursors.decode('api-keys', cursor, schema.KEY_ID);
      const keys = await apiKeySql.list(db, callerOf(request).tenant, limit, before);
      const last = keys.length === limit ? keys.at(-1) : undefined;
      const next = last ? cursors.encode('api-keys', last.id) : null;
      return { data: keys.map(toJson), next };
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
      },
    },
    async (request) => {
      const key = await apiKeySql.find(db, callerOf(request).tenant, request.params.id);
      if (!key) throw new AppError('not_found', 'There is no such key');
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
        body: schema.ApiKeyChange,
        response: { 200: schema.ApiKey },
      },
    },
    async (request) => {
      const { expiresAt, ...rest } = request.body;
      refuseMoreThanOwn(request, rest.scopes ?? []);
      const change = {
        ...withoutUndefined(rest),
        ...(expiresAt === undefined ? {} : { expiresAt: dateOf(expiresAt) }),
      };
      return toJson(
        await admin.change(callerOf(request).tenant, request.params.id, change, actorOf(request)),
      );
    },
  );

  app.post(
    '/api-keys/:id/rotate',
    {
      config: ADMIN,
      schema: {
        tags: TAGS,
        operationId: 'rotateApiKey',
        summary: 'Replace a key by a new one with the same rights',
        params: schema.ApiKeyId,
        body: schema.RotateApiKey,
        response: { 201: schema.IssuedApiKey },
        answerHeaders: ['Location'],
        failures: ['conflict'],
      },
    },
    async (request, reply) => {
      const { tenant } = callerOf(request);
      const { overlapSeconds } = request.body;
      const { key, token } = await admin.rotate(
        tenant,
        request.params.id,
        overlapSeconds,
        actorOf(request),
        (scopes) => refuseMoreThanOwn(request, scopes),
      );
      return reply
        .code(201)
        .header('location', `/v1/api-keys/${key.id}`)
        .send({ ...toJson(key), token });
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
      },
    },
    async (request, reply) => {
      await admin.revoke(callerOf(request).tenant, request.params.id, actorOf(request));
      return reply.code(204).send();
    },
  );

  app.get(
    '/audit-events',
    {
      config: { scope: 'audit:read' },
      schema: {
        tags: TAGS,
        operationId: 'listAuditEvents',
        summary: 'What was done to keys, newest first',
        querystring: schema.PageQuery,
        response: { 200: schema.AuditEventPage },
      },
    },
    async (request) => {
      const { limit, cursor } = request.query;
      const before = cursor === undefined ? undefined : cursors.decode('audit-events', cursor, UUID);
      const events = await auditSql.list(db, callerOf(request).tenant, limit, before);
      const last = events.length === limit ? events.at(-1) : undefined;
      const data = events.map((event) => ({ ...event, occurredAt: event.occurredAt.toISOString() }));
      return { data, next: last ? cursors.encode('audit-events', last.id) : null };
    },
  );
}

function callerOf({ principal }: FastifyRequest) {
  if (!principal) throw new Error('this route is outside of the authenticated scope');
  return principal;
}

function actorOf(request: FastifyRequest): Actor {
  return { actor: callerOf(request).keyId, requestId: request.id, ip: request.ip };
}

/** Otherwise the right to make keys would be the right to everything. */
function refuseMoreThanOwn(request: FastifyRequest, scopes: string[]): void {
  const missing = scopes.filter((scope) => !hasScope(callerOf(request), scope));
  if (missing.length > 0) throw new AppError('forbidden', `Your own key lacks ${missing.join(', ')}`);
}

function dateOf(moment: string | null): Date | null {
  return moment === null ? null : new Date(moment);
}

function toJson(key: ApiKey) {
  return {
    ...key,
    createdAt: key.createdAt.toISOString(),
    expiresAt: key.expiresAt?.toISOString() ?? null,
    revokedAt: key.revokedAt?.toISOString() ?? null,
    lastUsedAt: key.lastUsedAt?.toISOString() ?? null,
  };
}

function withoutUndefined<T extends object>(value: T) {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>;
  };
}
