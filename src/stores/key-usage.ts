import { LRUCache } from 'lru-cache';
import type { Logger } from 'pino';
import { apiKeySql } from './api-keys.ts';
import type { Db } from './postgres.ts';

const MINUTE_MS = 60_000;
const FLUSH_INTERVAL_MS = 10_000;
const REMEMBERED_KEYS = 50_000;

export type KeyUsage = ReturnType<typeof startKeyUsage>;

/**
 * Remembers when keys were used and writes it in batches: at most one write a key and minute,
 * whatever the traffic. Times are whole minutes. `close` writes what is still pending.
 */
export function startKeyUsage(db: Db, log: Logger) {
  const minuteOf = new LRUCache<string, number>({ max: REMEMBERED_KEYS });
  let pending = new Map<string, number>();
  const timer = setInterval(() => void flush(), FLUSH_INTERVAL_MS);
  timer.unref();

  function mark(keyId: string): void {
    const minute = Math.floor(Date.now() / MINUTE_MS);
    if (minuteOf.get(keyId) === minute) return;
    minuteOf.set(keyId, minute);
    pending.set(keyId, minute * MINUTE_MS);
  }

  async function flush(): Promise<void> {
    if (pending.size === 0) return;
    const batch = pending;
    pending = new Map();
    try {
      await db.query(apiKeySql.touch(batch));
    } catch (error) {
      // Kept for the next flush, unless the key was used again in the meantime.
      for (const [id, at] of batch) if (!pending.has(id)) pending.set(id, at);
      log.warn({ error, keys: batch.size }, 'last use of keys could not be written');
    }
  }

  return {
    mark,
    flush,
    async close(): Promise<void> {
      clearInterval(timer);
      await flush();
    },
  };
}
