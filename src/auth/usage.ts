import { LRUCache } from 'lru-cache';
import type { Logger } from 'pino';
import type { Db, Query } from '../postgres/postgres.ts';

const MINUTE_MS = 60_000;
const FLUSH_INTERVAL_MS = 10_000;
const REMEMBERED_KEYS = 20_000;

export type KeyUsage = ReturnType<typeof startKeyUsage>;

/**
 * Remembers when keys were used and writes it in batches: at most one write of a key's row for a
 * minute, whatever the traffic and over all processes: times are whole minutes, and who comes second
 * writes nothing. `close` writes what is still pending.
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
      await db.query(touch(batch));
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

/** One statement for a whole batch, forward only: an old flush never overwrites a newer one. */
function touch(usedAt: ReadonlyMap<string, number>): Query {
  return {
    name: 'api_key_touch',
    text: `update api_key set last_used_at = used.at
      from (
        select api_key.id, batch.at from api_key
        join unnest($1::text[], $2::timestamptz[]) as batch (id, at) on batch.id = api_key.id
        where api_key.last_used_at is null or api_key.last_used_at < batch.at
        order by api_key.id
        for no key update of api_key
      ) used
      where api_key.id = used.id`,
    values: [[...usedAt.keys()], [...usedAt.values()].map((at) => new Date(at))],
  };
}
