import { createHash } from 'node:crypto';
import type { FastifyReply } from 'fastify';
import type { IssuedApiKey } from '../../auth/administration.ts';
import type { ApiKey } from '../../auth/repository.ts';
import type { StoredAnswer } from '../../idempotency/repository.ts';
import { KEY_MEMORY_MS } from '../../auth/key-cache.ts';

/** A key as the API shows it: moments as text. */
export function toJson(key: ApiKey) {
  return {
    ...key,
    createdAt: key.createdAt.toISOString(),
    expiresAt: key.expiresAt?.toISOString() ?? null,
    revokedAt: key.revokedAt?.toISOString() ?? null,
    lastUsedAt: key.lastUsedAt?.toISOString() ?? null,
  };
}

/** The answer to a key that was made: the only one that holds the token. */
export function toAnswer({ key, token }: IssuedApiKey): StoredAnswer {
  const headers = { location: `/v1/api-keys/${key.id}`, etag: etagOf(key) };
  return { status: 201, headers, body: { ...toJson(key), token } };
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

export function dateOf(moment: string | null): Date | null {
  return moment === null ? null : new Date(moment);
}
