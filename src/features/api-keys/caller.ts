import type { FastifyRequest } from 'fastify';
import { AppError } from '../../errors.ts';
import type { Actor } from '../../stores/audit.ts';
import { hasScope, type Principal } from '../../stores/key-ring.ts';

export function callerOf({ principal }: FastifyRequest): Principal {
  if (!principal) throw new Error('this route is outside of the authenticated scope');
  return principal;
}

/** As the audit trail names who acts. */
export function actorOf(request: FastifyRequest): Actor {
  return { actor: callerOf(request).keyId, requestId: request.id, ip: request.ip };
}

/** Otherwise the right to make keys would be the right to everything. */
export function refuseMoreThanOwn(request: FastifyRequest, scopes: string[]): void {
  const missing = scopes.filter((scope) => !hasScope(callerOf(request), scope));
  if (missing.length > 0) throw new AppError('forbidden', `Your own key lacks ${missing.join(', ')}`);
}
