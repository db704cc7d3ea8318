import type { Logger } from 'pino';
import type { CacheResult, Metrics } from '../metrics.ts';
import { encodeKey, type CacheKey } from './cache-entry.ts';
import { createCacheFill, toFound, type Found } from './cache-fill.ts';
import { createKeptEntries } from './cache-kept.ts';
import { LEASE_MS, createSharedCache } from './cache-shared.ts';
import { createIntervalWarning } from './log-interval.ts';
import type { RedisHandle } from './redis.ts';
import { createSingleFlight } from './single-flight.ts';

export interface Cached<T> {
  /** Deeply frozen, and as it comes out of JSON: a Date is a string. Undefined: there is none. */
  value: T | undefined;
  /** Whole seconds since it was loaded, for `Age` (RFC 9111). */
  ageSeconds: number;
  result: CacheResult;
}

export interface CacheReadOptions<T> {
  ttlSeconds?: number;
  /** How many rows a value counts for; unless given, the length of an array and 1 for anything else. */
  rows?: (value: T) => number;
}

export interface Cache {
  /**
   * The value of the key; `load` is called when nobody has it and answers undefined for what does not
   * exist. Whoever asks meanwhile waits for that one call. It must not run in a transaction nor hang on
   * the request, which may be over before it ends. When it fails as in an outage, an old value is
   * served if one is left (some five minutes); otherwise its error is the caller's.
   */
  get<T>(
    key: CacheKey,
    load: () => Promise<T | undefined>,
    options?: CacheReadOptions<T>,
  ): Promise<T | undefined>;
  getWithAge<T>(
    key: CacheKey,
    load: () => Promise<T | undefined>,
    options?: CacheReadOptions<T>,
  ): Promise<Cached<T>>;
  /**
   * Commit, then invalidate; after a create too, its absence may be remembered. Whoever asks this
   * process after it resolved never gets a value whose load began before; other processes follow in milliseconds, and in a second when the news is lost. Never
   * rejects: what Redis could not be told is told when it is back.
   */
  invalidate(key: CacheKey): Promise<void>;
}

/**
 * Get or load, in two tiers:
 *
 *     kept by this process, and trusted?     ── yes ──► hit, stale, negative: nothing is parsed
 *       │ no
 *     is this process looking for it? ── yes ──► wait for that flight: coalesced
 *       │ no
 *     Redis ── fresh ──► hit, negative       ── stale ──► stale; one process refreshes behind it
 *       │ missing                            ── another process loads ──► poll, 2 s at most: coalesced
 *     load, alone if Redis gave the lease ── fails ──► stale if anything is left, else the error
 *       │
 *     keep it here, unless the key was invalidated since the flight began; fill Redis, if the lease holds
 *
 * A kept value is trusted for 1 s at most, or as long as it is fresh by a process that is `alone`.
 * `cache_requests_total` counts one result a read, and
 * `error` besides for every command that failed. What is larger than `maxRows` or 1 MiB passes through.
 */
export function createCache(
  settings: { prefix: string; ttlSeconds: number; maxRows: number; alone: boolean },
  { redis, log, metrics }: { redis?: RedisHandle; log: Logger; metrics: Metrics },
): Cache {
  const kept = createKeptEntries(settings.alone);
  const flights = createSingleFlight<Found>(LEASE_MS);
  const shared = redis && createSharedCache(settings.prefix, redis, { log, metrics });
  const { find, refreshes } = createCacheFill(kept, shared, settings.alone, createIntervalWarning(log));

  shared?.listen(forget, kept.distrustAll);

  function forget(id: string): void {
    kept.forget(id);
    flights.abandon(id);
    refreshes.abandon(id);
  }

  function count(result: CacheResult): void {
    metrics.cacheRequests.inc({ result });
  }

  async function getWithAge<T>(
    key: CacheKey,
    load: () => Promise<T | undefined>,
    { ttlSeconds = settings.ttlSeconds, rows = countRows }: CacheReadOptions<T> = {},
  ): Promise<Cached<T>> {
    const id = encodeKey(key);
    const entry = kept.findTrusted(id);
    if (entry) {
      const found = toFound(entry);
      count(found.result);
      return toCached(found);
    }

    const running = flights.find(id);
    if (running) {
      count('coalesced');
      return toCached({ ...(await running), result: 'coalesced' });
    }

    const isTooBig = (value: unknown) => rows(value as T) > settings.maxRows;
    let result: CacheResult = 'miss';
    try {
      const found = await flights.start(id, (mine) => find({ id, load, ttlSeconds, isTooBig }, mine));
      ({ result } = found);
      return toCached(found);
    } finally {
      count(result);
    }
  }

  return {
    getWithAge,

    async get(key, load, options) {
      return (await getWithAge(key, load, options)).value;
    },

    async invalidate(key) {
      const id = encodeKey(key);
      forget(id);
      await shared?.purge(id);
    },
  };
}

/** The same contract with CACHE_ENABLED=false: every read loads. */
export function createNoCache(): Cache {
  return {
    get: (_key, load) => load(),
    getWithAge: async (_key, load) => ({ value: await load(), ageSeconds: 0, result: 'miss' }),
    invalidate: async () => undefined,
  };
}

function toCached<T>({ value, entry, result }: Found): Cached<T> {
  const ageMs = entry ? performance.now() - entry.loadedAtMs : 0;
  return { value: value as T | undefined, ageSeconds: Math.floor(ageMs / 1000), result };
}

function countRows(value: unknown): number {
  return Array.isArray(value) ? value.length : 1;
}
