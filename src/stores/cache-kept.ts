import { LRUCache } from 'lru-cache';
import type { CacheEntry } from './cache-entry.ts';

export type KeptEntries = ReturnType<typeof createKeptEntries>;

/** News of an invalidation can get lost: with other processes about, nothing kept here is believed for longer. */
const TRUST_MS = 1000;
const ENTRIES_MAX = 5000;
const TEXT_LENGTH_MAX = 32 * 2 ** 20;

/**
 * The tier in this process: ready objects, bounded in number and in the length of their JSON. A process that is
 * `alone` hears of every invalidation, and believes what it keeps as long as it is fresh.
 */
export function createKeptEntries(alone: boolean) {
  const kept = new LRUCache<string, { entry: CacheEntry; trustedUntilMs: number }>({
    max: ENTRIES_MAX,
    maxSize: TEXT_LENGTH_MAX,
    sizeCalculation: ({ entry }) => entry.size,
  });

  return {
    findTrusted(id: string): CacheEntry | undefined {
      const found = kept.get(id);
      return found && performance.now() < found.trustedUntilMs ? found.entry : undefined;
    },

    /** What is left when nothing newer can be had. Absences are not kept for that. */
    findLast(id: string): CacheEntry | undefined {
      const entry = kept.get(id)?.entry;
      return entry && performance.now() < entry.loadedAtMs + entry.lifeMs ? entry : undefined;
    },

    keep(id: string, entry: CacheEntry): void {
      const now = performance.now();
      const turnsStaleMs = entry.loadedAtMs + entry.ttlMs;
      const fresh = now < turnsStaleMs;
      const goodUntilMs = fresh ? turnsStaleMs : entry.loadedAtMs + entry.lifeMs;
      const trustMs = alone && fresh ? Infinity : TRUST_MS;
      kept.set(id, { entry, trustedUntilMs: Math.min(now + trustMs, goodUntilMs) });
    },

    forget(id: string): void {
      kept.delete(id);
    },

    /** Keeps everything for findLast() only. */
    distrustAll(): void {
      for (const found of kept.values()) found.trustedUntilMs = 0;
    },
  };
}
