import type { Logger } from 'pino';
import type { CacheResult, Metrics } from '../observability/metrics.ts';
import { createPassingEntry, type CacheEntry, type EntryForm } from './entry.ts';
import { createCacheFill, toFound, type Found, type Search } from './loader.ts';
import { createKeptEntries } from './local-tier.ts';
import { LOAD_MAX_MS, createSharedCache } from './redis-tier.ts';
import { encodeKey, type CacheKey } from './serialization.ts';
import { createIntervalWarning } from '../lib/log-interval.ts';
import type { RedisHandle } from '../redis/redis.ts';
import { createSingleFlight } from '../lib/single-flight.ts';

export interface CacheReadOptions<T> extends EntryForm<T> {
  ttlSeconds?: number;
  /** From `shapeOf`: what was stored under another shape, by another release, is not there. */
  shape?: string;
  /** Of the request that the read is for: for the log, also of what goes on behind its answer. */
  requestId?: string;
  /** How many rows a value counts for; unless given, the length of an array and 1 for anything else. */
  rows?: (value: T) => number;
}

export interface Cache {
  /** What `read` would answer without waiting for anything; undefined when it would have to. */
  peek<T>(key: CacheKey): CacheEntry<T> | undefined;
  /**
   * The value of the key; `load` is called when nobody has it and answers undefined for what does not
   * exist. Whoever asks meanwhile waits for that one call. It must not run in a transaction nor hang on
   * the request, which may be over before it ends. When it fails as in an outage, an old value is
   * served if one is left (some five minutes); otherwise its error is the caller's.
   */
  read<T>(
    key: CacheKey,
    load: () => Promise<T | undefined>,
    options?: CacheReadOptions<T>,
  ): Promise<CacheEntry<T>>;
  /** The value alone. */
  get<T>(
    key: CacheKey,
    load: () => Promise<T | undefined>,
    options?: CacheReadOptions<T>,
  ): Promise<T | undefined>;
  /**
   * Commit, then invalidate; after a create too, its absence may be remembered. Whoever asks this
   * process after it resolved never gets a value whose load began before; other processes follow in
   * milliseconds, and in a second when the news is lost. Never rejects: what Redis could not be told is
   * told when it is back. Until then, and for good when this process dies before or Redis forgets it in a
   * failover, others may serve the old value: until it is twice its ttl old and a second, longer only
   * while loading fails.
   */
  invalidate(...keys: CacheKey[]): Promise<void>;
}

/**
 * Get or load, in two tiers:
 *
 *     kept by this process, and trusted?     ── yes ──► hit, stale, negative: nothing is parsed
 *       │ no
 *     is this process looking for it? ── yes ──► wait for that flight: coalesced
 *       │ no
 *     Redis ── fresh ──► hit, negative       ── stale ──► stale; one process refreshes behind it
 *       │ missing                            ── another process loads ──► poll, 5 s at most: coalesced
 *     load, alone if Redis gave the lease ── fails ──► stale if anything is left, else the error
 *       │
 *     keep it here, unless the key was invalidated since the flight began; fill Redis, if the lease holds
 *
 * A kept value is trusted for 1 s at most, or as long as it is fresh by a process that is `alone`. A process
 * that dies or stands still while it loads loses the lease after 2 s. `cache_requests_total` counts one
 * result a read, and `error` besides for every command that failed. What is larger than `maxRows` or 1 MiB
 * passes through.
 */
export function createCache(
  settings: { prefix: string; ttlSeconds: number; maxRows: number; alone: boolean },
  { redis, log, metrics }: { redis?: RedisHandle; log: Logger; metrics: Metrics },
): Cache {
  const kept = createKeptEntries(settings.alone);
  const flights = createSingleFlight<Found>(LOAD_MAX_MS);
  const shared = redis && createSharedCache(settings.prefix, redis, { log, metrics });
  const { find, refreshes } = createCacheFill(kept, shared, settings.alone, createIntervalWarning(log));

  shared?.listen(forget, kept.doubtAll);

  function forget(id: string): void {
    kept.forget(id);
    flights.abandon(id);
    refreshes.abandon(id);
  }

  function count(result: CacheResult): void {
    metrics.cacheRequests.inc({ result });
  }

  function peek<T>(key: CacheKey): CacheEntry<T> | undefined {
    const entry = kept.findTrusted(encodeKey(key));
    if (entry) count(toFound(entry).result);
    return entry as CacheEntry<T> | undefined;
  }

  async function read<T>(
    key: CacheKey,
    load: () => Promise<T | undefined>,
    options: CacheReadOptions<T> = {},
  ): Promise<CacheEntry<T>> {
    const known = peek<T>(key);
    if (known) return known;

    const id = encodeKey(key);
    const running = flights.find(id);
    if (running) {
      count('coalesced');
      return (await running).entry as CacheEntry<T>;
    }

    const { ttlSeconds, maxRows } = settings;
    // Inside, a value is of any type: one cache holds them all.
    const place = encodeKey({ tenant: key.tenant, name: key.name, id: key.id });
    const owner = { id, place, shape: '' };
    const search = { ttlSeconds, maxRows, rows: countRows, ...owner, ...options, load } as Search;
    let result: CacheResult = 'miss';
    try {
      const found = await flights.start(id, (mine) => find(search, mine));
      ({ result } = found);
      return found.entry as CacheEntry<T>;
    } finally {
      count(result);
    }
  }

  return {
    peek,
    read,

    async get(key, load, options) {
      return (await read(key, load, options)).value;
    },

    async invalidate(...keys) {
      const ids = keys.map(encodeKey);
      for (const id of ids) forget(id);
      if (shared) await Promise.all(ids.map((id) => shared.purge(id)));
    },
  };
}

/** The same contract with CACHE_ENABLED=false: every read loads. */
export function createNoCache(): Cache {
  return {
    peek: () => undefined,
    read: (_key, load, options = {}) => {
      const startedAtMs = performance.now();
      return load().then((value) => createPassingEntry(value, startedAtMs, options));
    },
    get: (_key, load) => load(),
    invalidate: async () => undefined,
  };
}

function countRows(value: unknown): number {
  return Array.isArray(value) ? value.length : 1;
}
