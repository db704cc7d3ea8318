import { LRUCache } from 'lru-cache';
import type { CacheEntry } from './entry.ts';
import { tenantOf } from './serialization.ts';

export type KeptEntries = ReturnType<typeof createKeptEntries>;

/** News of an invalidation can get lost: with other processes about, nothing kept here is believed for longer. */
const TRUST_MS = 1000;
const ENTRIES_MAX = 5000;
const TEXT_LENGTH_MAX = 32 * 2 ** 20;
/** Absences are kept apart, so many of a tenant: whoever asks for ids at random pushes out nothing of others. */
const TENANTS_MAX = 500;
const ABSENCES_MAX = 100;

interface Kept {
  entry: CacheEntry;
  trustedUntilMs: number;
}

/**
 * The tier in this process, bounded in number and in the length of keys and JSON. A process that is `alone`
 * hears of every invalidation, and believes what it keeps as long as it is fresh.
 */
export function createKeptEntries(alone: boolean) {
  const kept = new LRUCache<string, Kept>({
    max: ENTRIES_MAX,
    maxSize: TEXT_LENGTH_MAX,
    sizeCalculation: ({ entry: { json = '' } }, id) => id.length + json.length,
  });

  const absences = new LRUCache<string, LRUCache<string, Kept>>({ max: TENANTS_MAX });

  const find = (id: string) => kept.get(id) ?? absences.get(tenantOf(id))?.get(id);

  function forget(id: string): void {
    kept.delete(id);
    absences.get(tenantOf(id))?.delete(id);
  }

  return {
    forget,

    findTrusted(id: string): CacheEntry | undefined {
      const found = find(id);
      return found && performance.now() < found.trustedUntilMs ? found.entry : undefined;
    },

    /**
     * What is left when nothing newer can be had. `surely`: not what may have been invalidated by news that
     * this process has missed.
     */
    findLast(id: string, surely: boolean): CacheEntry | undefined {
      const found = find(id);
      if (!found || (surely && found.trustedUntilMs === DOUBTED)) return undefined;
      return found.entry.ageMs < found.entry.times.lifeMs ? found.entry : undefined;
    },

    keep(id: string, entry: CacheEntry): void {
      const { ttlMs, lifeMs, loadedAtMs } = entry.times;
      const now = performance.now();
      const fresh = now < loadedAtMs + ttlMs;
      const trustMs = alone && fresh ? Infinity : TRUST_MS;
      const trustedUntilMs = Math.min(now + trustMs, loadedAtMs + (fresh ? ttlMs : lifeMs));
      forget(id);
      if (entry.json !== undefined) {
        kept.set(id, { entry, trustedUntilMs });
        return;
      }
      const tenant = tenantOf(id);
      const own = absences.get(tenant) ?? new LRUCache({ max: ABSENCES_MAX });
      absences.set(tenant, own.set(id, { entry, trustedUntilMs }));
    },

    /** News may have been missed: all that is kept is for `findLast` only. */
    doubtAll(): void {
      for (const all of [kept, ...absences.values()])
        for (const found of all.values()) found.trustedUntilMs = DOUBTED;
    },
  };
}

const DOUBTED = 0;
