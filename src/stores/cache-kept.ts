import { LRUCache } from 'lru-cache';
import type { CacheEntry } from './cache-entry.ts';

export type KeptEntries = ReturnType<typeof createKeptEntries>;

/** News of an invalidation can get lost: with other processes about, nothing kept here is believed for longer. */
const TRUST_MS = 1000;
const ENTRIES_MAX = 5000;
const TEXT_LENGTH_MAX = 32 * 2 ** 20;

/**
 * The tier in this process, bounded in number and in the length of keys and JSON. A process that is `alone`
 * hears of every invalidation, and believes what it keeps as long as it is fresh.
 */
export function createKeptEntries(alone: boolean) {
  const kept = new LRUCache<string, { entry: CacheEntry; trustedUntilMs: number }>({
    max: ENTRIES_MAX,
    maxSize: TEXT_LENGTH_MAX,
    sizeCalculation: ({ entry: { json = '' } }, id) => id.length + json.length,
  });

  return {
    findTrusted(id: string): CacheEntry | undefined {
      const found = kept.get(id);
      return found && performance.now() < found.trustedUntilMs ? found.entry : undefined;
    },

    /**
     * What is left when nothing newer can be had. `surely`: not what may have been invalidated by news that
     * this process has missed.
     */
    findLast(id: string, surely: boolean): CacheEntry | undefined {
      const found = kept.get(id);
      if (!found || (surely && found.trustedUntilMs === DOUBTED)) return undefined;
      return found.entry.ageMs < found.entry.times.lifeMs ? found.entry : undefined;
    },

    keep(id: string, entry: CacheEntry): void {
      const { ttlMs, lifeMs, loadedAtMs } = entry.times;
      const now = performance.now();
      const fresh = now < loadedAtMs + ttlMs;
      const trustMs = alone && fresh ? Infinity : TRUST_MS;
      const trustedUntilMs = Math.min(now + trustMs, loadedAtMs + (fresh ? ttlMs : lifeMs));
      kept.set(id, { entry, trustedUntilMs });
    },

    forget(id: string): void {
      kept.delete(id);
    },

    /** News may have been missed: all that is kept is for `findLast` only. */
    doubtAll(): void {
      for (const found of kept.values()) found.trustedUntilMs = DOUBTED;
    },
  };
}

const DOUBTED = 0;
