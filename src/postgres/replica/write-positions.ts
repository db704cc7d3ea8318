import { LRUCache } from 'lru-cache';

/** The commands of ioredis that are needed here, of a Redis that does not evict (`noeviction`). */
export interface PositionRedis {
  ready(): boolean;
  client: {
    get(key: string): Promise<string | null>;
    eval(script: string, keyCount: number, ...keysAndArguments: string[]): Promise<unknown>;
  };
}

export type WritePositions = ReturnType<typeof createWritePositions>;

/** Of a write whose position could not be read: no replica is ever known to have replayed it. */
export const UNKNOWN_POSITION = 'FFFFFFFF/FFFFFFFF';

/** Longer than a replica in use can lack a write: it is in use only while it lags less than 10 s. */
const TTL_MS = 60_000;
const KEY_PREFIX = 'hp:wrote:';

/**
 * Where in the log of the primary each tenant wrote last: pg_lsn text with both halves padded to eight digits, so
 * that it sorts as a string. Writes end in one order and may be recorded in another: a position never goes back,
 * except from unknown. With `redis` all processes share them, and `set` and `get` reject if Redis fails; the process
 * that called `set` has its position all the same.
 */
export function createWritePositions(redis?: PositionRedis, tenantsMax = 10_000) {
  // What had to make room counts for every tenant, or its owner would read a state before its own write.
  let floor = { position: '', endsAtMs: 0 };
  const own = new LRUCache<string, string>({
    max: tenantsMax,
    ttl: TTL_MS,
    dispose(position, _tenant, reason) {
      if (reason !== 'evict') return;
      floor = { position: later(floor.position, position), endsAtMs: performance.now() + TTL_MS };
    },
  });

  function readyClient() {
    if (redis?.ready() === false) throw new Error('Redis is not ready');
    return redis?.client;
  }

  return {
    async set(tenant: string, position: string): Promise<void> {
      const held = own.get(tenant) ?? UNKNOWN_POSITION;
      own.set(tenant, held === UNKNOWN_POSITION ? position : later(held, position));
      const ttl = String(TTL_MS);
      await readyClient()?.eval(REPLACE, 1, KEY_PREFIX + tenant, position, ttl, UNKNOWN_POSITION);
    },

    async get(tenant: string): Promise<string | undefined> {
      const shared = (await readyClient()?.get(KEY_PREFIX + tenant)) ?? '';
      const evicted = performance.now() > floor.endsAtMs ? '' : floor.position;
      return later(later(own.get(tenant) ?? '', shared), evicted) || undefined;
    },
  };
}

/** As `set` does it, in one step for all processes. KEYS: position. ARGV: position, ttl in ms, unknown. */
const REPLACE = `
local held = redis.call('get', KEYS[1])
if not held or held == ARGV[3] or held < ARGV[1] then
  redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[2])
end
return 1
`;

function later(a: string, b: string): string {
  return a > b ? a : b;
}
