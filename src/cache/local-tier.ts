import { LRUCache } from 'lru-cache';
import type { CacheEntry } from './entry.ts';
import { tenantOf } from './serialization.ts';

export type LocalTier = ReturnType<typeof createLocalTier>;

/** A message of an invalidation can get lost: with other processes about, no entry is trusted for longer. */
const TRUST_MS = 1000;
const ENTRIES_MAX = 5000;
const TEXT_LENGTH_MAX = 32 * 2 ** 20;
/** Absences are kept apart, so many of a tenant: requests for random ids push out nothing of others. */
const TENANTS_MAX = 500;
const ABSENCES_MAX = 100;
const DISTRUSTED = 0;

interface LocalEntry {
  entry: CacheEntry;
  trustedUntilMs: number;
}

/**
 * The tier in this process, bounded in number and in the length of keys and JSON. A single process hears of every
 * invalidation, and trusts an entry as long as it is fresh.
 */
export function createLocalTier(singleProcess: boolean) {
  const values = new LRUCache<string, LocalEntry>({
    max: ENTRIES_MAX,
    maxSize: TEXT_LENGTH_MAX,
    sizeCalculation: ({ entry: { json = '' } }, id) => id.length + json.length,
  });
  const absences = new LRUCache<string, LRUCache<string, LocalEntry>>({ max: TENANTS_MAX });

  const find = (id: string) => values.get(id) ?? absences.get(tenantOf(id))?.get(id);

  function forget(id: string): void {
    values.delete(id);
    absences.get(tenantOf(id))?.delete(id);
  }

  return {
    forget,

    findTrusted(id: string): CacheEntry | undefined {
      const found = find(id);
      return found && performance.now() < found.trustedUntilMs ? found.entry : undefined;
    },

    /** What is left if nothing newer can be read. `trusted`: not if this process may have missed an invalidation. */
    findLast(id: string, trusted = false): CacheEntry | undefined {
      const found = find(id);
      if (!found || (trusted && found.trustedUntilMs === DISTRUSTED)) return undefined;
      return found.entry.ageMs < found.entry.times.lifeMs ? found.entry : undefined;
    },

    set(id: string, entry: CacheEntry): void {
      const { ttlMs, lifeMs, loadedAtMs } = entry.times;
      const now = performance.now();
      const isFresh = now < loadedAtMs + ttlMs;
      const trustMs = singleProcess && isFresh ? Infinity : TRUST_MS;
      const trustedUntilMs = Math.min(now + trustMs, loadedAtMs + (isFresh ? ttlMs : lifeMs));
      forget(id);
      if (entry.json !== undefined) {
        values.set(id, { entry, trustedUntilMs });
        return;
      }
      const tenant = tenantOf(id);
      const own = absences.get(tenant) ?? new LRUCache({ max: ABSENCES_MAX });
      absences.set(tenant, own.set(id, { entry, trustedUntilMs }));
    },

    /** An invalidation may have been missed: every entry is for `findLast` only. */
    distrustAll(): void {
      for (const all of [values, ...absences.values()])
        for (const found of all.values()) found.trustedUntilMs = DISTRUSTED;
    },
  };
}
