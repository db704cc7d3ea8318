import type { FastifyInstance } from 'fastify';
import { z } from 'zod';
import type { ApiKeyAdmin } from '../../auth/administration.ts';
import { IdempotencyKeyHeader, type Idempotency } from '../../idempotency/repository.ts';
import type { ZodProvider } from '../../http/resource/zod-types.ts';
import { actorOf, callerOf, refuseMoreThanOwn } from '../../auth/caller.ts';
import { tellPropagation, toAnswer } from './representation.ts';
import * as schema from './schema.ts';

const TAGS = ['api-keys'];
const ADMIN = { scope: 'keys:admin' };

/** How a key ends: replaced by another, or for ever. */
export function endingRoutes(
  scope: FastifyInstance,
  options: { admin: ApiKeyAdmin; idempotency: Idempotency; defaultLimit: number },
): void {
  const { admin, idempotency, defaultLimit } = options;
  const app = scope.withTypeProvider<ZodProvider>();

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
      const { tenant } = callerOf(request);
      const { overlapSeconds } = request.body;
      const { result: answer, everywhere } = await admin.rotate(
        tenant,
        request.params.id,
        overlapSeconds,
        actorOf(request),
        (current) => refuseMoreThanOwn(request, defaultLimit, current),
        (rotate) => idempotency.run(request.idempotency, async (tx) => toAnswer(await rotate(tx))),
      );
      return tellPropagation(reply, everywhere)
        .code(201)
        .headers(answer.headers)
        .send(answer.body as schema.IssuedApiKey);
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
      const { everywhere } = await admin.revoke(tenant, request.params.id, actorOf(request), (current) =>
        refuseMoreThanOwn(request, defaultLimit, current),
      );
      return tellPropagation(reply, everywhere).code(204).send();
    },
  );
}
