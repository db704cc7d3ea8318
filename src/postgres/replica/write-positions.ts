import { LRUCache } from 'lru-cache';

/**
 * Where in the primary's log each tenant wrote last. A position is pg_lsn text with both halves padded to
 * eight digits, so that it sorts as a string.
 */
export interface WriteMarks {
  set(tenant: string, position: string): Promise<void>;
  get(tenant: string): Promise<string | undefined>;
}

/** The commands of ioredis that marks need. They must not be evicted: a Redis with `noeviction`. */
export interface MarkRedis {
  get(key: string): Promise<string | null>;
  eval(script: string, keyCount: number, ...keysAndArguments: string[]): Promise<unknown>;
}

/** Mark of a write whose position could not be read: no replica is ever known to have replayed it. */
export const UNKNOWN_POSITION = 'FFFFFFFF/FFFFFFFF';

/**
 * A mark may be forgotten when no replica in use can still lack its write. A replica is in use only while
 * it lags less than 10 s, so this leaves a wide margin.
 */
export const MARK_TTL_SECONDS = 60;

const KEY_PREFIX = 'hp:wrote:';

/** Marks of this process: enough for one, and the part of `createRedisMarks` that Redis cannot lose. */
export function createLocalMarks(ttlSeconds = MARK_TTL_SECONDS, tenantsMax = 10_000): WriteMarks {
  // What had to make room counts for every tenant, or its owner would read a state before its own write.
  let floor = { position: '', expiresAt: 0 };
  const marks = new LRUCache<string, string>({
    max: tenantsMax,
    ttl: ttlSeconds * 1000,
    dispose(position, _tenant, reason) {
      if (reason !== 'evict') return;
      const expiresAt = performance.now() + ttlSeconds * 1000;
      floor = { position: later(floor.position, position), expiresAt };
    },
  });

  return {
    async set(tenant, position) {
      marks.set(tenant, replace(marks.get(tenant), position));
    },

    async get(tenant) {
      const own = marks.get(tenant);
      if (performance.now() > floor.expiresAt) return own;
      return later(own ?? '', floor.position);
    },
  };
}

/**
 * Marks shared by every process. `set` and `get` reject when Redis fails; the process that called `set`
 * has its mark all the same.
 */
export function createRedisMarks(redis: MarkRedis, ttlSeconds = MARK_TTL_SECONDS): WriteMarks {
  const local = createLocalMarks(ttlSeconds);

  return {
    async set(tenant, position) {
      await local.set(tenant, position);
      await redis.eval(
        REPLACE,
        1,
        KEY_PREFIX + tenant,
        position,
        String(ttlSeconds * 1000),
        UNKNOWN_POSITION,
      );
    },

    async get(tenant) {
      const [own, shared] = await Promise.all([local.get(tenant), redis.get(KEY_PREFIX + tenant)]);
      return later(own ?? '', shared ?? '') || undefined;
    },
  };
}

/** Writes end in one order and may be marked in another: a mark never goes back, except from unknown. */
function replace(held: string | undefined, position: string): string {
  return held === undefined || held === UNKNOWN_POSITION ? position : later(held, position);
}

/** The same as `replace`, in one step for all processes. KEYS: mark. ARGV: position, ttl in ms, unknown. */
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
