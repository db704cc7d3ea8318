import { timingSafeEqual } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { AuthFailure } from '../observability/metrics.ts';
import { digestToken, parseToken } from './token.ts';
import { apiKeySql, type StoredKey } from './repository.ts';
import type { Db } from '../postgres/postgres.ts';

/** Who makes a request. */
export interface Principal {
  keyId: string;
  tenant: string;
  scopes: ReadonlySet<string>;
  /** Requests a minute, when the key has a limit of its own. */
  limitPerMinute: number | null;
  /** Moment in ms at which the key ends by itself; Infinity when it does not. */
  endsAt: number;
}

export type AuthResult =
  | { principal: Principal }
  /** `key` if the token was valid once: it is revoked or expired. */
  | {
      refused: Exclude<AuthFailure, 'scope' | 'limited'>;
      key?: Pick<Principal, 'keyId' | 'tenant'>;
    };

/** `*` stands for every scope. */
export function hasScope({ scopes }: Principal, scope: string): boolean {
  return scopes.has(scope) || scopes.has('*');
}

/** No digest equals this one. */
const NO_DIGEST = Buffer.alloc(32);

/** Checks tokens against Postgres. Throws `unavailable` without it. */
export function createKeyVerifier(db: Db, options: { keySecret: string; keyEnvironment: string }) {
  const findKey = createBatchLoader(db);

  /** `id` is undefined for what cannot be a key of this environment, which costs no query. */
  return async function verifyApiKey(token: string): Promise<{ result: AuthResult; id?: string }> {
    const parsed = parseToken(token);
    if (parsed?.environment !== options.keyEnvironment) return { result: { refused: 'malformed' } };
    const { id } = parsed;
    const key = await findKey(id);
    // Also for an unknown id: otherwise the time of a refusal tells which ids exist.
    const isGenuine = timingSafeEqual(key?.digest ?? NO_DIGEST, digestToken(token, options.keySecret));
    if (!key || !isGenuine) return { result: { refused: 'unknown' }, id };
    const { tenant, limitPerMinute } = key;
    const endsAt = key.endsAt ?? Infinity;
    // `endsAt` may be NaN, which is expired too.
    const refused = key.revoked ? 'revoked' : endsAt > Date.now() ? undefined : 'expired';
    if (refused) return { result: { refused, key: { keyId: id, tenant } }, id };
    const principal = { keyId: id, tenant, limitPerMinute, scopes: new Set(key.scopes), endsAt };
    return { result: { principal }, id };
  };
}

/**
 * Reads keys by their ids, with one query for all of one turn of the event loop, which halves the cost of seldom used
 * keys. Never waits for a query that began before the call.
 */
function createBatchLoader(db: Db) {
  let next: { ids: Set<string>; found: Promise<Map<string, StoredKey>> } | undefined;

  async function load(ids: Set<string>): Promise<Map<string, StoredKey>> {
    await nextTurn();
    next = undefined;
    const rows = await apiKeySql.findStored(db, [...ids]);
    return new Map(rows.map((row) => [row.id, row]));
  }

  return async function loadKey(id: string): Promise<StoredKey | undefined> {
    if (!next) {
      const ids = new Set<string>();
      next = { ids, found: load(ids) };
    }
    next.ids.add(id);
    return (await next.found).get(id);
  };
}
