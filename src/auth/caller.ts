import type { FastifyRequest } from 'fastify';
import { AppError } from '../errors.ts';
import type { Actor } from './audit-log.ts';
import type { ApiKey } from './repository.ts';
import { hasScope, type Principal } from './key-check.ts';

export function callerOf({ principal }: FastifyRequest): Principal {
  if (!principal) throw new Error('this route is outside of the authenticated scope');
  return principal;
}

/** As the audit trail names who acts. */
export function actorOf(request: FastifyRequest): Actor {
  return { actor: callerOf(request).keyId, requestId: request.id, ip: request.ip };
}

/** What a key is allowed to, how much of it and for how long. */
export type Rights = Pick<ApiKey, 'scopes' | 'limitPerMinute' | 'expiresAt'>;

/**
 * Throws unless the caller's own key has all that the other key has or is to get. Every act on a key asks it:
 * otherwise the right to make keys would be the right to everything.
 */
export function refuseMoreThanOwn(
  request: FastifyRequest,
  defaultLimit: number,
  other: Partial<Rights>,
): void {
  const own = callerOf(request);
  const excess: string[] = [];
  const missing = (other.scopes ?? []).filter((scope) => !hasScope(own, scope));
  if (missing.length > 0) excess.push(`lacks ${missing.join(', ')}`);

  const [ownLimit, limit] = [own.limitPerMinute ?? defaultLimit, other.limitPerMinute ?? defaultLimit];
  if (other.limitPerMinute !== undefined && limit > ownLimit)
    excess.push(`may make ${ownLimit} requests a minute, less than ${limit}`);

  if (other.expiresAt !== undefined && !((other.expiresAt?.getTime() ?? Infinity) <= own.endsAt))
    excess.push(`ends at ${new Date(own.endsAt).toISOString()}, earlier than ${ending(other.expiresAt)}`);

  if (excess.length > 0) throw new AppError('forbidden', `Your own key ${excess.join('; it ')}`);
}

function ending(expiresAt: Date | null): string {
  return expiresAt?.toISOString() ?? 'a key without an end';
}
