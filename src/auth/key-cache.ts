import { LRUCache } from 'lru-cache';
import { AppError } from '../errors.ts';
import { parseToken } from './token.ts';
import { createKeyVerifier, type AuthResult, type Principal } from './key-check.ts';
import type { Db } from '../postgres/postgres.ts';

/** No process trusts what it knows of a key for longer without a query, whatever happens to Redis. */
export const KEY_MEMORY_MS = 5_000;
/** The next request after that refreshes the key in the background: a key in use never waits. */
const REFRESH_AFTER_MS = 4_000;
/** Between two refreshes that fail. */
const RETRY_MS = 1_000;
/** How long a key goes on without Postgres: see `useWithoutPostgres`. */
const OUTAGE_MEMORY_MS = 300_000;
const KEYS_MAX = 20_000;
const REFUSED_MAX = 2_000;

interface CachedKey {
  principal: Principal;
  /** On the clock of `performance.now()`, counted from the start of the query. */
  trustedUntilMs: number;
  /** Until then it may go on without Postgres; 0 if a change may have been missed. */
  outageUntilMs: number;
  refreshAtMs: number;
  /** A refresh that began while the key was trusted is under way. */
  refreshing: boolean;
}

export type ApiKeyCache = ReturnType<typeof createApiKeyCache>;

/**
 * The keys in use: a hot key costs one look-up in memory by the token, no I/O and no digest. Bounded in size and in
 * time; after `forget` the next request asks Postgres again.
 *
 * A Map is no oracle for secrets: it compares a seeded hash of the whole token, and letters only where the hash is
 * equal. What the Map does not hold is compared in constant time, as a digest: see `verifyApiKey`.
 */
export function createApiKeyCache(
  db: Db,
  options: {
    keySecret: string;
    keyEnvironment: string;
    /** Whether this process would be told if a key were revoked at this moment. */
    isInformed: () => boolean;
  },
) {
  const verifyApiKey = createKeyVerifier(db, options);
  const known = new LRUCache<string, CachedKey>({
    max: KEYS_MAX,
    dispose: ({ principal: { keyId } }, token) => {
      if (tokenOf.get(keyId) === token) tokenOf.delete(keyId);
    },
  });
  // Apart, so that a flood of invented keys cannot push the good ones out.
  const refused = new LRUCache<string, AuthResult>({ max: REFUSED_MAX, ttl: KEY_MEMORY_MS });
  // An id has one token, so this holds no more than `known`.
  const tokenOf = new Map<string, string>();
  // A change removes the query that it overtakes: its result must not be kept.
  const running = new Map<string, Promise<AuthResult>>();
  // Since a query failed for lack of Postgres, and none succeeded after it.
  let awayUntilMs = -Infinity;

  const cache = {
    /** What is known of this token without I/O. */
    peek(token: string): AuthResult | undefined {
      const key = known.get(token);
      if (!key) return refused.get(token) ?? (parseToken(token) ? undefined : { refused: 'malformed' });
      const now = performance.now();
      if (now >= key.refreshAtMs) refresh(token, key, now);
      const isAway = key.refreshing || now < awayUntilMs;
      return now < key.trustedUntilMs || (isAway && mayOutlast(key, now)) ? resultOf(key) : undefined;
    },

    /** Whether a query for it is no guess of a stranger: the key was good before, or a query is under way. */
    recognizes(token: string): boolean {
      return known.has(token) || running.has(token);
    },

    /** One query for any number of callers. Throws `unavailable` without Postgres: an outage is no 401. */
    find(token: string): Promise<AuthResult> {
      const earlier = running.get(token);
      if (earlier) return earlier;
      const startedAtMs = performance.now();
      const isCurrent = () => running.get(token) === found;
      const found: Promise<AuthResult> = verifyApiKey(token)
        .then(
          ({ result, id }) => {
            awayUntilMs = -Infinity;
            if (id !== undefined && isCurrent()) keep(token, id, result, startedAtMs);
            return result;
          },
          (error: unknown) => useWithoutPostgres(token, error),
        )
        .finally(() => {
          if (isCurrent()) running.delete(token);
        });
      running.set(token, found);
      return found;
    },

    forget(id: string): void {
      const token = tokenOf.get(id);
      if (token !== undefined) known.delete(token);
      for (const others of [running, refused])
        for (const other of others.keys()) if (other.includes(`_${id}_`)) others.delete(other);
    },

    /** A change may have been missed. */
    distrustAll(): void {
      running.clear();
      for (const key of known.values()) key.trustedUntilMs = key.outageUntilMs = 0;
      refused.clear();
    },
  };
  return cache;

  function refresh(token: string, key: CachedKey, now: number): void {
    key.refreshAtMs = now + RETRY_MS;
    if (running.has(token)) return;
    key.refreshing = now < key.trustedUntilMs;
    void cache
      .find(token)
      .catch(() => undefined)
      .finally(() => (key.refreshing = false));
  }

  function keep(presented: string, id: string, result: AuthResult, startedAtMs: number): void {
    // A part of a string holds the whole in memory, here a header of up to 16 KB: so a copy.
    const token = Buffer.from(presented, 'latin1').toString('latin1');
    if ('refused' in result) {
      known.delete(token);
      refused.set(token, result);
      return;
    }
    known.set(token, {
      principal: result.principal,
      trustedUntilMs: startedAtMs + KEY_MEMORY_MS,
      outageUntilMs: startedAtMs + OUTAGE_MEMORY_MS,
      refreshAtMs: startedAtMs + REFRESH_AFTER_MS,
      refreshing: false,
    });
    tokenOf.set(id, token);
  }

  /**
   * Without Postgres no key can be revoked through this process, and a process that is informed of what others revoke
   * need not refuse everybody. One that is not informed has the memory of a few seconds only.
   */
  function useWithoutPostgres(token: string, error: unknown): AuthResult {
    const isOutage = error instanceof AppError && error.code !== 'internal';
    const now = performance.now();
    if (isOutage) awayUntilMs = now + KEY_MEMORY_MS;
    const key = known.get(token);
    if (!key || !isOutage || !mayOutlast(key, now)) throw error;
    key.trustedUntilMs = now + KEY_MEMORY_MS;
    return resultOf(key);
  }

  function mayOutlast({ outageUntilMs }: CachedKey, now: number): boolean {
    return now < outageUntilMs && options.isInformed();
  }

  function resultOf(key: CachedKey): AuthResult {
    return key.principal.endsAt > Date.now() ? key : { refused: 'expired', key: key.principal };
  }
}
