import { timingSafeEqual } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import { AppError } from '../errors.ts';
import type { AuthFailure } from '../metrics.ts';
import { digestToken, parseToken } from './api-key-token.ts';
import { apiKeySql } from './api-keys.ts';
import type { Db } from './postgres.ts';

/** Who makes a request. */
export interface Principal {
  keyId: string;
  tenant: string;
  scopes: ReadonlySet<string>;
  /** Requests a minute, when the key has a limit of its own. */
  limitPerMinute: number | null;
}

/** `*` stands for every scope. */
export function hasScope({ scopes }: Principal, scope: string): boolean {
  return scopes.has(scope) || scopes.has('*');
}

export type Verdict =
  { principal: Principal } | { refused: Exclude<AuthFailure, 'missing' | 'scope' | 'limited'> };

/** No process believes what it knows of a key for longer without asking, whatever happens to Redis. */
export const KEY_MEMORY_MS = 5_000;
/** How long a key goes on when there is nobody to ask: see `ask`. */
const OUTAGE_MEMORY_MS = 300_000;
const KNOWN_KEYS = 20_000;
const REFUSED_KEYS = 2_000;

export type KeyRing = ReturnType<typeof createKeyRing>;

/**
 * Knows the keys in use: a hot key costs one look-up in memory by the presented string, no I/O and
 * no digest. Bounded in size and in time; `forget` makes the next request ask Postgres again.
 */
export function createKeyRing(
  db: Db,
  options: {
    keySecret: string;
    keyEnvironment: string;
    /** Whether this process would be told if a key were revoked at this moment. */
    hearsOfChanges: () => boolean;
  },
) {
  interface Known {
    principal: Principal;
    /** Moment in ms at which the key itself ends. */
    endsAt: number;
    /** On the clock of `performance.now()`: counted from the question, for its answer may be late. */
    believedUntilMs: number;
    /** Until then it may go on without Postgres; 0 when a change may have been missed. */
    outageUntilMs: number;
  }
  const known = new LRUCache<string, Known>({
    max: KNOWN_KEYS,
    dispose: ({ principal: { keyId } }, token) => {
      if (tokenOf.get(keyId) === token) tokenOf.delete(keyId);
    },
  });
  // Apart from the good ones, so that a flood of invented keys cannot push those out.
  const refused = new LRUCache<string, Verdict>({ max: REFUSED_KEYS, ttl: KEY_MEMORY_MS });
  // Only one string is the key of an id, so this holds no more than `known`.
  const tokenOf = new Map<string, string>();
  const asking = new Map<string, Promise<Verdict>>();
  // Grows with every `forget`: an answer that was asked for before it must not be remembered.
  let generation = 0;

  return {
    /** What is known of this key without asking anybody. */
    peek(token: string): Verdict | undefined {
      const entry = known.get(token);
      if (!entry || entry.believedUntilMs <= performance.now()) return refused.get(token);
      return entry.endsAt > Date.now() ? entry : { refused: 'expired' };
    },

    /** Whether asking is no guess of a stranger: the key was good before, or is being asked for already. */
    recognizes(token: string): boolean {
      return known.has(token) || asking.has(token);
    },

    /** Asks Postgres, once for any number of callers. Throws `unavailable` when that is away: an outage is no 401. */
    find(token: string): Promise<Verdict> {
      const running = asking.get(token);
      if (running) return running;
      const answer = ask(token).finally(() => {
        if (asking.get(token) === answer) asking.delete(token);
      });
      asking.set(token, answer);
      return answer;
    },

    forget(id: string): void {
      generation++;
      asking.clear();
      const token = tokenOf.get(id);
      if (token !== undefined) known.delete(token);
      for (const other of refused.keys()) if (other.includes(`_${id}_`)) refused.delete(other);
    },

    forgetAll(): void {
      generation++;
      asking.clear();
      for (const entry of known.values()) entry.believedUntilMs = entry.outageUntilMs = 0;
      refused.clear();
    },
  };

  async function ask(token: string): Promise<Verdict> {
    const askedAt = generation;
    const now = performance.now();
    const parsed = parseToken(token);
    if (parsed?.environment !== options.keyEnvironment) return { refused: 'malformed' };
    let key: Awaited<ReturnType<typeof apiKeySql.findWithDigest>>;
    try {
      key = await apiKeySql.findWithDigest(db, parsed.id);
    } catch (error) {
      const entry = known.get(token);
      if (!entry || !canGoOn(entry, error)) throw error;
      entry.believedUntilMs = performance.now() + KEY_MEMORY_MS;
      return entry.endsAt > Date.now() ? entry : { refused: 'expired' };
    }
    const verdict = judge();
    if (askedAt !== generation) return verdict;
    if ('refused' in verdict) {
      known.delete(token);
      refused.set(token, verdict);
    } else {
      const endsAt = key?.expiresAt?.getTime() ?? Infinity;
      const [believedUntilMs, outageUntilMs] = [now + KEY_MEMORY_MS, now + OUTAGE_MEMORY_MS];
      known.set(token, { ...verdict, endsAt, believedUntilMs, outageUntilMs });
      tokenOf.set(parsed.id, token);
    }
    return verdict;

    function judge(): Verdict {
      if (!key || !timingSafeEqual(key.digest, digestToken(token, options.keySecret)))
        return { refused: 'unknown' };
      if (key.revokedAt) return { refused: 'revoked' };
      if (key.expiresAt && key.expiresAt.getTime() <= Date.now()) return { refused: 'expired' };
      const { id: keyId, tenant, limitPerMinute } = key;
      return { principal: { keyId, tenant, limitPerMinute, scopes: new Set(key.scopes) } };
    }
  }

  /**
   * Without Postgres nobody can revoke a key through us, and a process that hears of what others revoke need
   * not refuse everybody. One that does not hear stays with the memory of a few seconds.
   */
  function canGoOn({ outageUntilMs }: Known, error: unknown): boolean {
    if (!(error instanceof AppError) || error.code === 'internal') return false;
    return performance.now() < outageUntilMs && options.hearsOfChanges();
  }
}
