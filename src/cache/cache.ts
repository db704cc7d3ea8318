/**
 * Cached reads: `read` returns a stored value or loads it; `after-write` invalidates what a write has changed.
 *
 * Two tiers: the local tier in this process, and the Redis tier for all of them. A value is loaded once, however many
 * requests and processes ask for it. A stale value is returned while it is loaded anew, and while loading fails. A
 * key holds the tenant. A shape separates the entries of releases that store different fields.
 *
 * Failures: without Redis each process caches for itself, with a short lifetime, because it hears of no other
 * process' writes. A failed invalidation is repeated. A process that may have missed one trusts none of its entries.
 *
 * May be deleted with its option in `dependencies.ts`: features then read their repository.
 */

import type { Logger } from 'pino';
import type { CacheResult, Metrics } from '../observability/metrics.ts';
import { createPassingEntry, type CacheEntry, type EntryFormat } from './entry.ts';
import { createLoader, toFound, type CacheRead, type Found } from './loader.ts';
import { createLocalTier } from './local-tier.ts';
import { LOAD_MAX_MS, createRedisTier } from './redis-tier.ts';
import { encodeKey, type CacheKey } from './serialization.ts';
import { createIntervalWarning } from '../lib/log-interval.ts';
import type { RedisHandle } from '../redis/redis.ts';
import { createSingleFlight } from '../lib/single-flight.ts';

export interface CacheReadOptions<T> extends EntryFormat<T> {
  ttlSeconds?: number;
  /** From `shapeOf`: what was stored under another shape, by another release, is not there. */
  shape?: string;
  /** Of the request that reads: for the log, also of what goes on in the background. */
  requestId?: string;
  /** How many rows a value counts for; unless given, the length of an array and 1 for anything else. */
  rows?: (value: T) => number;
}

export interface Cache {
  /** What `read` would return without waiting; undefined if it would have to wait. */
  peek<T>(key: CacheKey): CacheEntry<T> | undefined;
  /**
   * The value of the key. If no tier has it, `load` is called, which resolves to undefined for what does not exist;
   * other reads wait for that one call. It must not run in a transaction nor hang on the request, which may be over
   * before it ends. If it fails as in an outage, an old value is served if one is left (some five minutes); otherwise
   * its error is thrown.
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
   * Commit, then invalidate; after a create too, its absence may be cached. Reads of this process that begin after it
   * resolved never get a value whose load began before; other processes follow in milliseconds, and in a second if
   * the message is lost. Never rejects: failed invalidations are retried. Until then, and for good if this process
   * dies before or Redis forgets it in a failover, other processes may serve the old value: until it is twice its ttl
   * old and a second, longer only while loading fails.
   */
  invalidate(...keys: CacheKey[]): Promise<void>;
}

/**
 * Get or load, in two tiers:
 *
 *     in the local tier, and trusted?         ── yes ──► hit, stale, negative: nothing is parsed
 *       │ no
 *     does this process read it already?      ── yes ──► wait for that flight: coalesced
 *       │ no
 *     Redis ── fresh ──► hit, negative        ── stale ──► stale; one process refreshes it in the background
 *       │ missing                             ── another process loads ──► poll, 5 s at most: coalesced
 *     load, once if Redis gave the lease      ── fails ──► stale if anything is left, else the error
 *       │
 *     set the local tier, unless the key was invalidated meanwhile; set the Redis tier, if the lease holds
 *
 * A local entry is trusted for 1 s at most, or as long as it is fresh in a `singleProcess`. A process that dies or
 * stands still while it loads loses the lease after 2 s. `cache_requests_total` counts one result a read, and `error`
 * besides for every command that failed. What is larger than `maxRows` or 1 MiB is not cached.
 */
export function createCache(
  settings: { prefix: string; ttlSeconds: number; maxRows: number; singleProcess: boolean },
  { redis, log, metrics }: { redis?: RedisHandle; log: Logger; metrics: Metrics },
): Cache {
  const { ttlSeconds, maxRows, singleProcess } = settings;
  const local = createLocalTier(singleProcess);
  const flights = createSingleFlight<Found>(LOAD_MAX_MS);
  const redisTier = redis && createRedisTier(settings.prefix, redis, { log, metrics });
  const { find, refreshes } = createLoader(local, redisTier, singleProcess, createIntervalWarning(log));

  redisTier?.subscribe(forget, local.distrustAll);

  function forget(id: string): void {
    local.forget(id);
    flights.abandon(id);
    refreshes.abandon(id);
  }

  function count(result: CacheResult): void {
    metrics.cacheRequests.inc({ result });
  }

  function peek<T>(key: CacheKey): CacheEntry<T> | undefined {
    const entry = local.findTrusted(encodeKey(key));
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

    const { generation: _, ...place } = key;
    const owner = { id, place: encodeKey(place), shape: '' };
    // Inside, a value is of any type: one cache holds them all.
    const request = { ttlSeconds, maxRows, rows: countRows, ...owner, ...options, load } as CacheRead;
    let result: CacheResult = 'miss';
    try {
      const found = await flights.start(id, (isCurrent) => find(request, isCurrent));
      ({ result } = found);
      return found.entry as CacheEntry<T>;
    } finally {
      count(result);
    }
  }

  return {
    peek,
    read,
    get: async (key, load, options) => (await read(key, load, options)).value,

    async invalidate(...keys) {
      const ids = keys.map(encodeKey);
      for (const id of ids) forget(id);
      if (redisTier) await Promise.all(ids.map(redisTier.purge));
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
