import { LRUCache } from 'lru-cache';
import { setTimeout as delay } from 'node:timers/promises';
import { AppError, type ErrorCode } from '../errors.ts';
import type { CacheResult } from '../metrics.ts';
import { decodeEntry, encodeEntry, type CacheEntry } from './cache-entry.ts';
import type { KeptEntries } from './cache-kept.ts';
import { LEASE_MS, NOTHING_HELD, type Held, type SharedCache } from './cache-shared.ts';
import { createSingleFlight } from './single-flight.ts';

/** One read that the process could not answer from what it keeps. */
export interface Search {
  id: string;
  load(): Promise<unknown>;
  ttlSeconds: number;
  isTooBig(value: unknown): boolean;
}

/** `entry` is missing only for a value that is not cached. */
export interface Found {
  value: unknown;
  entry?: CacheEntry;
  result: CacheResult;
}

type Warn = (fields: Record<string, unknown>, message: string) => void;

/** How long one process waits for the load of another before it loads itself. */
const WAIT_MS = 2000;
const POLL_MS = 25;
const TEXT_BYTES_MAX = 2 ** 20;
/** Failures that say nothing about the thing itself; any other is an answer, and no old value hides it. */
const OUTAGES = new Set<ErrorCode>(['internal', 'unavailable', 'overloaded', 'timeout', 'request_timeout']);

/** Finds what this process does not keep: in Redis, in another process that loads it, or by loading. */
export function createCacheFill(
  kept: KeptEntries,
  shared: SharedCache | undefined,
  alone: boolean,
  warn: Warn,
) {
  const refreshes = createSingleFlight<void>(LEASE_MS);
  const waitedInVain = new LRUCache<string, true>({ max: 1000, ttl: LEASE_MS });

  async function find(search: Search, mine: () => boolean): Promise<Found> {
    const { id } = search;
    const first = shared ? await shared.read(id, 2) : keptAlone(id);
    const waited = first.busy && !waitedInVain.has(id);
    const held = waited ? await waitForOther(id) : first;
    if (!held.entry || ageInTtls(held.entry) >= 2) return load(search, held, mine);

    if (mine()) kept.keep(id, held.entry);
    if (ageInTtls(held.entry) >= 1) refresh(search);
    return { ...toFound(held.entry), ...(waited && { result: 'coalesced' }) };
  }

  /** Without Redis: what went stale here was invalidated by nobody else, if there is nobody else. */
  function keptAlone(id: string): Held {
    const entry = alone ? kept.findLast(id) : undefined;
    return entry ? { entry, busy: false } : NOTHING_HELD;
  }

  /** Ends with the value, with the lease when its holder gave up, or after WAIT_MS with neither: the holder may be dead. */
  async function waitForOther(id: string): Promise<Held> {
    const untilMs = performance.now() + WAIT_MS;
    for (;;) {
      await delay(POLL_MS * (0.5 + Math.random()));
      const held = (await shared?.read(id, 2)) ?? NOTHING_HELD;
      if (!held.busy) return held;
      if (performance.now() < untilMs) continue;
      waitedInVain.set(id, true);
      return held;
    }
  }

  async function load(search: Search, { entry, lease }: Held, mine: () => boolean): Promise<Found> {
    const { id } = search;
    let value: unknown;
    try {
      value = await search.load();
    } catch (error) {
      if (lease) shared?.release(id, lease);
      const last = entry ?? kept.findLast(id);
      if (!last || !isOutage(error)) throw error;
      warn({ reason: (error as Error).message }, 'an old value is served because a load failed');
      if (mine()) kept.keep(id, last);
      return { ...toFound(last), result: 'stale' };
    }

    const text = toText(search, value);
    const loaded = text === undefined ? undefined : decodeEntry(text);
    if (!loaded || text === undefined) {
      if (lease) shared?.release(id, lease, true);
      return { value, result: 'miss' };
    }
    if (mine()) kept.keep(id, loaded);
    if (lease) shared?.fill(id, lease, text, loaded.lifeMs);
    return { ...toFound(loaded), result: 'miss' };
  }

  /** Behind the back of those who got the stale value; one process at a time. */
  function refresh(search: Search): void {
    if (refreshes.find(search.id)) return;
    const work = async (mine: () => boolean) => {
      const held = (await shared?.read(search.id, 1)) ?? NOTHING_HELD;
      if (held.lease || !shared) await load(search, held, mine);
    };
    refreshes.start(search.id, work).catch((error: unknown) => {
      warn({ reason: (error as Error).message }, 'a cached value could not be refreshed');
    });
  }

  /** The text to store; undefined for what is too big, or cannot be, stored. */
  function toText(search: Search, value: unknown): string | undefined {
    try {
      if (value !== undefined && search.isTooBig(value)) return undefined;
      const text = encodeEntry(value, search.ttlSeconds);
      return Buffer.byteLength(text) > TEXT_BYTES_MAX ? undefined : text;
    } catch (error) {
      warn({ reason: (error as Error).message }, 'a value cannot be cached');
      return undefined;
    }
  }

  return { find, refreshes };
}

export function toFound(entry: CacheEntry): Found {
  if (entry.value === undefined) return { value: undefined, entry, result: 'negative' };
  return { value: entry.value, entry, result: ageInTtls(entry) < 1 ? 'hit' : 'stale' };
}

function ageInTtls({ loadedAtMs, ttlMs }: CacheEntry): number {
  return (performance.now() - loadedAtMs) / ttlMs;
}

function isOutage(error: unknown): boolean {
  return !(error instanceof AppError) || OUTAGES.has(error.code);
}
