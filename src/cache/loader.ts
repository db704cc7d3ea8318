import { LRUCache } from 'lru-cache';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError, type ErrorCode } from '../errors.ts';
import type { CacheResult } from '../observability/metrics.ts';
import { JSON_BYTES_MAX, createEntry, createPassingEntry, type CacheEntry, type EntryForm } from './entry.ts';
import type { KeptEntries } from './local-tier.ts';
import { AWAY, LOAD_MAX_MS, type Held, type SharedCache } from './redis-tier.ts';
import type { TextOwner } from './serialization.ts';
import { createSingleFlight } from '../lib/single-flight.ts';

/** One read that the process could not answer from what it keeps. */
export interface Search extends TextOwner, EntryForm<unknown> {
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
/** Failures that say nothing about the thing itself; any other is an answer, and no old value hides it. */
const OUTAGES = new Set<ErrorCode>(['internal', 'unavailable', 'overloaded', 'timeout', 'request_timeout']);

/** Finds what this process does not keep: in Redis, in another process that loads it, or by loading. */
export function createCacheFill(
  kept: KeptEntries,
  shared: SharedCache | undefined,
  alone: boolean,
  warn: Warn,
) {
  const refreshes = createSingleFlight<void>(LOAD_MAX_MS);
  // Keys that failed to load: their readers get what is left at once, and the next try is made behind them.
  const failing = new LRUCache<string, true>({ max: 5000, ttl: LOAD_MAX_MS });

  async function find(search: Search, mine: () => boolean): Promise<Found> {
    const first = await look(search, SERVED_AGE);
    const waited = first.state === 'busy';
    const held = waited ? await waitForOther(search) : first;
    if (held.state !== 'found') {
      const loading = load(search, held, mine);
      const late = held.state === 'away' ? held.late : undefined;
      // Whoever can give the value first: Postgres may be slower still.
      return late
        ? Promise.race([loading, late.then((entry) => (entry ? toFound(entry) : loading))])
        : loading;
    }

    if (mine()) kept.keep(search.id, held.entry);
    if (held.entry.ageInTtls >= FRESH_AGE) refresh(search);
    return waited ? { entry: held.entry, result: 'coalesced' } : toFound(held.entry);
  }

  async function look(search: Search, wantedAge: number): Promise<Held> {
    const fails = failing.has(search.id);
    const maxAge = fails && wantedAge === SERVED_AGE ? ANY_AGE : wantedAge;
    const isKept = kept.findLast(search.id, false) !== undefined;
    const held = shared ? await shared.read(search, maxAge, isKept) : AWAY;
    if (held.state !== 'away' || !(alone || fails)) return held;
    const entry = kept.findLast(search.id, false);
    return entry && entry.ageInTtls < maxAge ? { state: 'found', entry } : { state: 'away', entry };
  }

  /** Ends with the value, or with the lease when its holder gave up or died, or after WAIT_MS with neither. */
  async function waitForOther(search: Search): Promise<Held> {
    const untilMs = performance.now() + WAIT_MS;
    for (;;) {
      await delay(POLL_MS * (0.5 + Math.random()));
      const held = await look(search, SERVED_AGE);
      if (held.state !== 'busy' || performance.now() > untilMs) return held;
    }
  }

  async function load(search: Search, held: Held, mine: () => boolean): Promise<Found> {
    const { id } = search;
    const lease = held.state === 'claimed' ? held.lease : undefined;
    const loadedAtMs = performance.now();
    let value: unknown;
    try {
      value = await search.load();
    } catch (error) {
      lease?.release();
      const last = held.entry ?? kept.findLast(id, held.state !== 'away');
      if (!last || !isOutage(error)) throw error;
      failing.set(id, true);
      tell(search, error, 'an old value is served because a load failed');
      if (mine()) kept.keep(id, last);
      return { entry: last, result: 'stale' };
    }

    failing.delete(id);
    const entry = toEntry(search, value, loadedAtMs);
    if (!entry) {
      lease?.release(true);
      return { entry: createPassingEntry(value, loadedAtMs, search), result: 'miss' };
    }
    if (mine()) kept.keep(id, entry);
    lease?.store(entry);
    return { entry, result: 'miss' };
  }

  /** Behind the back of those who got the stale value; one process at a time. */
  function refresh(search: Search): void {
    const { id } = search;
    if (refreshes.find(id)) return;
    const work = async (mine: () => boolean) => {
      const held = await look(search, FRESH_AGE);
      if (held.state === 'busy') return;
      if (held.state !== 'found') await load(search, held, mine);
      else if (mine()) kept.keep(id, held.entry);
    };
    refreshes.start(id, work).catch((error: unknown) => {
      tell(search, error, 'a cached value could not be refreshed');
    });
  }

  /** Undefined for what is too big, or cannot be, stored. */
  function toEntry(search: Search, value: unknown, loadedAtMs: number): CacheEntry | undefined {
    try {
      if (value !== undefined && search.rows(value) > search.maxRows) return undefined;
      const entry = createEntry(value, loadedAtMs, search);
      return Buffer.byteLength(entry.json ?? '') > JSON_BYTES_MAX ? undefined : entry;
    } catch (error) {
      tell(search, error, 'a value cannot be cached');
      return undefined;
    }
  }

  function tell({ requestId }: Search, error: unknown, message: string): void {
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
