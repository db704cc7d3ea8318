import { timingSafeEqual } from 'node:crypto';
import { digestToken, parseToken } from './token.ts';
import type { KeyLookup } from './key-lookup.ts';
import type { Verdict } from './key-cache.ts';

/** No digest is like this one. */
const NO_DIGEST = Buffer.alloc(32);

export interface CheckedKey {
  verdict: Verdict;
  /** Undefined for what cannot be a key of this environment: that cost no query and is known again for nothing. */
  id?: string;
}

/** What Postgres says of a presented key at this moment. Throws `unavailable` when it says nothing. */
export async function checkKey(
  look: KeyLookup,
  { keySecret, keyEnvironment }: { keySecret: string; keyEnvironment: string },
  token: string,
): Promise<CheckedKey> {
  const parsed = parseToken(token);
  if (parsed?.environment !== keyEnvironment) return { verdict: { refused: 'malformed' } };
  const { id } = parsed;
  const key = await look(id);
  // Also for an unknown id: otherwise the time of a refusal tells which ids exist.
  const isGenuine = timingSafeEqual(key?.digest ?? NO_DIGEST, digestToken(token, keySecret));
  if (!key || !isGenuine) return { verdict: { refused: 'unknown' }, id };
  const { tenant, limitPerMinute } = key;
  const refuse = (refused: 'revoked' | 'expired') => ({
    verdict: { refused, key: { keyId: id, tenant } },
    id,
  });
  if (key.revoked) return refuse('revoked');
  const endsAt = key.endsAt ?? Infinity;
  // Also what is no number.
  if (!(endsAt > Date.now())) return refuse('expired');
  const principal = { keyId: id, tenant, limitPerMinute, scopes: new Set(key.scopes), endsAt };
  return { verdict: { principal }, id };
}
