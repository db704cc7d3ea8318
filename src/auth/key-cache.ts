import { LRUCache } from 'lru-cache';
import { AppError } from '../errors.ts';
import type { AuthFailure } from '../observability/metrics.ts';
import { parseToken } from './token.ts';
import { checkKey, type CheckedKey } from './key-check.ts';
import { createKeyLookup } from './key-lookup.ts';
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

/** `*` stands for every scope. */
export function hasScope({ scopes }: Principal, scope: string): boolean {
  return scopes.has(scope) || scopes.has('*');
}

export type Verdict =
  | { principal: Principal }
  /** `key` when the string was once a good one: it is revoked or expired. */
  | {
      refused: Exclude<AuthFailure, 'missing' | 'scope' | 'limited'>;
      key?: Pick<Principal, 'keyId' | 'tenant'>;
    };

/** No process believes what it knows of a key for longer without asking, whatever happens to Redis. */
export const KEY_MEMORY_MS = 5_000;
/** Then the next request with a key has it asked for again behind its back: a key in use waits for nobody. */
const ASK_AGAIN_AFTER_MS = 4_000;
/** Between two such questions, while they fail. */
const RETRY_MS = 1_000;
/** How long a key goes on when there is nobody to ask: see `goOn`. */
const OUTAGE_MEMORY_MS = 300_000;
const KNOWN_KEYS = 20_000;
const REFUSED_KEYS = 2_000;

export type KeyRing = ReturnType<typeof createKeyRing>;

/**
 * Knows the keys in use: a hot key costs one look-up in memory by the presented string, no I/O and
 * no digest. Bounded in size and in time; `forget` makes the next request ask Postgres again.
 *
 * A Map is no oracle for secrets. It goes by a hash of the whole string, with a seed of the process,
 * and compares letters only with what has the same place in the table; ten letters guessed right are
 * worth less than a nanosecond of that, where a request is worth some 100 000 and failed ones are
 * limited. A key that the Map does not hold is compared in constant time, as a digest: see `checkKey`.
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
    /** On the clock of `performance.now()`: counted from the question, for its answer may be late. */
    believedUntilMs: number;
    /** Until then it may go on without Postgres; 0 when a change may have been missed. */
    outageUntilMs: number;
    askAgainAtMs: number;
    /** A question that was asked while the key was believed has no answer yet. */
    unanswered: boolean;
  }
  const look = createKeyLookup(db);
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
  // A question that is no longer here was overtaken by a change: its answer must not be remembered.
  const asking = new Map<string, Promise<Verdict>>();

  // Since a question failed for lack of Postgres; none was answered after it.
  let awayUntilMs = -Infinity;

  const ring = {
    /** What is known of this key without waiting for anybody. */
    peek(token: string): Verdict | undefined {
      const entry = known.get(token);
      if (!entry) return refused.get(token) ?? (parseToken(token) ? undefined : { refused: 'malformed' });
      const now = performance.now();
      if (now >= entry.askAgainAtMs) askBehind(token, entry, now);
      const away = entry.unanswered || now < awayUntilMs;
      if (now >= entry.believedUntilMs && !(away && mayGoOn(entry, now))) return undefined;
      return entry.principal.endsAt > Date.now() ? entry : { refused: 'expired', key: entry.principal };
    },

    /** Whether asking is no guess of a stranger: the key was good before, or is being asked for already. */
    recognizes(token: string): boolean {
      return known.has(token) || asking.has(token);
    },

    /** Asks Postgres, once for any number of callers. Throws `unavailable` when that is away: an outage is no 401. */
    find(token: string): Promise<Verdict> {
      const running = asking.get(token);
      if (running) return running;
      const askedAtMs = performance.now();
      const answer: Promise<Verdict> = checkKey(look, options, token)
        .then(
          (checked) => {
            awayUntilMs = -Infinity;
            if (asking.get(token) === answer) remember(token, checked, askedAtMs);
            return checked.verdict;
          },
          (error: unknown) => goOn(token, error),
        )
        .finally(() => {
          if (asking.get(token) === answer) asking.delete(token);
        });
      asking.set(token, answer);
      return answer;
    },

    forget(id: string): void {
      const token = tokenOf.get(id);
      if (token !== undefined) known.delete(token);
      for (const others of [asking, refused])
        for (const other of others.keys()) if (other.includes(`_${id}_`)) others.delete(other);
    },

    forgetAll(): void {
      asking.clear();
      for (const entry of known.values()) entry.believedUntilMs = entry.outageUntilMs = 0;
      refused.clear();
    },
  };
  return ring;

  function askBehind(token: string, entry: Known, now: number): void {
    entry.askAgainAtMs = now + RETRY_MS;
    if (asking.has(token)) return;
    entry.unanswered = now < entry.believedUntilMs;
    void ring
      .find(token)
      .catch(() => undefined)
      .finally(() => (entry.unanswered = false));
  }

  function remember(presented: string, { verdict, id }: CheckedKey, askedAtMs: number): void {
    if (id === undefined) return;
    // A part of a string holds the whole in memory, here a header of up to 16 KB: so a copy.
    const token = Buffer.from(presented, 'latin1').toString('latin1');
    if ('refused' in verdict) {
      known.delete(token);
      refused.set(token, verdict);
    } else {
      const [believedUntilMs, outageUntilMs] = [askedAtMs + KEY_MEMORY_MS, askedAtMs + OUTAGE_MEMORY_MS];
      const askAgainAtMs = askedAtMs + ASK_AGAIN_AFTER_MS;
      const times = { believedUntilMs, outageUntilMs, askAgainAtMs };
      known.set(token, { ...verdict, ...times, unanswered: false });
      tokenOf.set(id, token);
    }
  }

  /**
   * Without Postgres nobody can revoke a key through us, and a process that hears of what others revoke need
   * not refuse everybody. One that does not hear stays with the memory of a few seconds.
   */
  function goOn(token: string, error: unknown): Verdict {
    const isOutage = error instanceof AppError && error.code !== 'internal';
    const entry = known.get(token);
    const now = performance.now();
    if (isOutage) awayUntilMs = now + KEY_MEMORY_MS;
    if (!entry || !isOutage || !mayGoOn(entry, now)) throw error;
    entry.believedUntilMs = now + KEY_MEMORY_MS;
    return entry.principal.endsAt > Date.now() ? entry : { refused: 'expired', key: entry.principal };
  }

  function mayGoOn({ outageUntilMs }: Known, now: number): boolean {
    return now < outageUntilMs && options.hearsOfChanges();
  }
}
