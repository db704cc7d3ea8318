import { LRUCache } from 'lru-cache';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError, type ErrorCode } from '../errors.ts';
import { createSingleFlight } from '../lib/single-flight.ts';
import type { CacheResult } from '../observability/metrics.ts';
import {
  JSON_BYTES_MAX,
  createEntry,
  createPassingEntry,
  type CacheEntry,
  type EntryFormat,
} from './entry.ts';
import type { LocalTier } from './local-tier.ts';
import { AWAY, LOAD_MAX_MS, type Reading, type RedisTier } from './redis-tier.ts';
import type { TextOwner } from './serialization.ts';

/** One read of a key that the local tier does not answer. */
export interface CacheRead extends TextOwner, EntryFormat<unknown> {
  load(): Promise<unknown>;
  ttlSeconds: number;
  requestId?: string;
  rows(value: unknown): number;
  maxRows: number;
}

export interface Found {
  entry: CacheEntry;
  result: CacheResult;
}

type Warn = (fields: Record<string, unknown>, message: string) => void;

/** How long one process waits for another that loads before it loads itself. */
const WAIT_MS = 5000;
const POLL_MS = 25;
/** In ttls: up to which age a value is fresh, is served, and is served while loading fails. */
const FRESH_AGE = 1;
const SERVED_AGE = 2;
const ANY_AGE = 1e9;
/** Failures that say nothing about the thing itself; no old value hides any other. */
const OUTAGES = new Set<ErrorCode>(['internal', 'unavailable', 'overloaded', 'timeout', 'request_timeout']);

/** Gets what the local tier lacks: from Redis, from another process that loads it, or by loading. */
export function createLoader(
  local: LocalTier,
  redisTier: RedisTier | undefined,
  singleProcess: boolean,
  warn: Warn,
) {
  const refreshes = createSingleFlight<void>(LOAD_MAX_MS);
  // Keys that failed to load: their readers get what is left at once, and the next try is made in the background.
  const failing = new LRUCache<string, true>({ max: 5000, ttl: LOAD_MAX_MS });

  async function find(request: CacheRead, isCurrent: () => boolean): Promise<Found> {
    const first = await read(request, SERVED_AGE);
    const waited = first.state === 'busy';
    const reading = waited ? await waitForOther(request) : first;
    if (reading.state !== 'found') {
      const loading = load(request, reading, isCurrent);
      const late = reading.state === 'away' ? reading.late : undefined;
      // Whichever comes first: Postgres may be slower still.
      return late
        ? Promise.race([loading, late.then((entry) => (entry ? toFound(entry) : loading))])
        : loading;
    }

    if (isCurrent()) local.set(request.id, reading.entry);
    if (reading.entry.ageInTtls >= FRESH_AGE) refresh(request);
    return waited ? { entry: reading.entry, result: 'coalesced' } : toFound(reading.entry);
  }

  async function read(request: CacheRead, wantedAge: number): Promise<Reading> {
    const isFailing = failing.has(request.id);
    const maxAge = isFailing && wantedAge === SERVED_AGE ? ANY_AGE : wantedAge;
    const hurries = local.findLast(request.id) !== undefined;
    const reading = redisTier ? await redisTier.read(request, maxAge, hurries) : AWAY;
    if (reading.state !== 'away' || !(singleProcess || isFailing)) return reading;
    const entry = local.findLast(request.id);
    return entry && entry.ageInTtls < maxAge ? { state: 'found', entry } : { state: 'away', entry };
  }

  /** Ends with the value, or with the lease if its holder gave up or died, or after WAIT_MS with neither. */
  async function waitForOther(request: CacheRead): Promise<Reading> {
    const untilMs = performance.now() + WAIT_MS;
    for (;;) {
      await delay(POLL_MS * (0.5 + Math.random()));
      const reading = await read(request, SERVED_AGE);
      if (reading.state !== 'busy' || performance.now() > untilMs) return reading;
    }
  }

  async function load(request: CacheRead, reading: Reading, isCurrent: () => boolean): Promise<Found> {
    const { id } = request;
    const lease = reading.state === 'claimed' ? reading.lease : undefined;
    const loadedAtMs = performance.now();
    let value: unknown;
    try {
      value = await request.load();
    } catch (error) {
      lease?.release();
      const last = reading.entry ?? local.findLast(id, reading.state !== 'away');
      if (!last || !isOutage(error)) throw error;
      failing.set(id, true);
      warnOf(request, error, 'an old value is served because a load failed');
      if (isCurrent()) local.set(id, last);
      return { entry: last, result: 'stale' };
    }

    failing.delete(id);
    const entry = toEntry(request, value, loadedAtMs);
    if (!entry) {
      lease?.release(true);
      return { entry: createPassingEntry(value, loadedAtMs, request), result: 'miss' };
    }
    if (isCurrent()) local.set(id, entry);
    lease?.store(entry);
    return { entry, result: 'miss' };
  }

  /** In the background, after the stale value was served; one process at a time. */
  function refresh(request: CacheRead): void {
    const { id } = request;
    if (refreshes.find(id)) return;
    const work = async (isCurrent: () => boolean) => {
      const reading = await read(request, FRESH_AGE);
      if (reading.state === 'busy') return;
      if (reading.state !== 'found') await load(request, reading, isCurrent);
      else if (isCurrent()) local.set(id, reading.entry);
    };
    refreshes.start(id, work).catch((error: unknown) => {
      warnOf(request, error, 'a cached value could not be refreshed');
    });
  }

  /** Undefined for what is too big, or cannot be, stored. */
  function toEntry(request: CacheRead, value: unknown, loadedAtMs: number): CacheEntry | undefined {
    try {
      if (value !== undefined && request.rows(value) > request.maxRows) return undefined;
      const entry = createEntry(value, loadedAtMs, request);
      return Buffer.byteLength(entry.json ?? '') > JSON_BYTES_MAX ? undefined : entry;
    } catch (error) {
      warnOf(request, error, 'a value cannot be cached');
      return undefined;
    }
  }

  function warnOf({ requestId }: CacheRead, error: unknown, message: string): void {
    warn({ request_id: requestId, reason: (error as Error).message }, message);
  }

  return { find, refreshes };
}

export function toFound(entry: CacheEntry): Found {
  if (entry.json === undefined) return { entry, result: 'negative' };
  return { entry, result: entry.ageInTtls < FRESH_AGE ? 'hit' : 'stale' };
}

function isOutage(error: unknown): boolean {
  return !(error instanceof AppError) || OUTAGES.has(error.code);
}
