import { createHash } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { IssuedApiKey } from '../../auth/administration.ts';
import type { ApiKey } from '../../auth/repository.ts';
import type { Actor } from '../../auth/audit-log.ts';
import { callerOf } from '../../auth/caller.ts';
import type { StoredResponse } from '../../idempotency/repository.ts';
import { KEY_MEMORY_MS } from '../../auth/key-cache.ts';

/** As the audit trail names who acts. */
export function actorOf(request: FastifyRequest): Actor {
  return { actor: callerOf(request).principal.keyId, requestId: request.id, ip: request.ip };
}

/** The response with a key that was made: the only one that holds the token. */
export function toResponse({ key, token }: IssuedApiKey): StoredResponse {
  const headers = { location: `/v1/api-keys/${key.id}`, etag: etagOf(key) };
  return { status: 201, headers, body: { ...key, token } };
}

/** Of what people decide about a key. Its last use is not part of that: it would make every ETag stale within a minute. */
export function etagOf({ name, scopes, limitPerMinute, expiresAt, revokedAt, replacedBy }: ApiKey): string {
  const state = JSON.stringify([name, scopes, limitPerMinute, expiresAt, revokedAt, replacedBy]);
  return `"${createHash('sha256').update(state).digest('base64url').slice(0, 22)}"`;
}

/** The change is made; if other processes could not be told of it, the client learns when they follow. */
export function tellPropagation<R extends Pick<FastifyReply, 'header'>>(reply: R, everywhere: boolean): R {
  if (!everywhere) reply.header('propagation-delay', String(KEY_MEMORY_MS / 1000));
  return reply;
}
