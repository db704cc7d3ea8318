import { AppError } from '../../errors.ts';
import type { ApiKeyChange } from '../../auth/repository.ts';
import { hasScope, type Principal } from '../../auth/key-check.ts';

/**
 * Throws unless the caller's own key has all that the other key has or is to get. Every act on a key asks it:
 * otherwise the right to make keys would be the right to everything.
 */
export function refuseMoreThanOwn(own: Principal, defaultLimit: number, other: ApiKeyChange): void {
  const excess: string[] = [];
  const missing = (other.scopes ?? []).filter((scope) => !hasScope(own, scope));
  if (missing.length > 0) excess.push(`lacks ${missing.join(', ')}`);

  const [ownLimit, limit] = [own.limitPerMinute ?? defaultLimit, other.limitPerMinute ?? defaultLimit];
  if (other.limitPerMinute !== undefined && limit > ownLimit)
    excess.push(`may make ${ownLimit} requests a minute, less than ${limit}`);

  const { expiresAt } = other;
  if (expiresAt !== undefined && !((expiresAt === null ? Infinity : Date.parse(expiresAt)) <= own.endsAt)) {
    const end = new Date(own.endsAt).toISOString();
    excess.push(`ends at ${end}, earlier than ${expiresAt ?? 'a key without an end'}`);
  }

  if (excess.length > 0) throw new AppError('forbidden', `Your own key ${excess.join('; it ')}`);
}
