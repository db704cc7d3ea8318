import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { createIntervalWarning } from '../lib/log-interval.ts';
import { withDeadline } from '../lib/timeouts.ts';
import type { Metrics } from '../observability/metrics.ts';
import type { RedisHandle } from '../redis/redis.ts';
import type { CacheEntry } from './entry.ts';
import { LEASE_MS, TOO_BIG_MS, defineCacheScripts } from './scripts.ts';
import { decodeEntry, encodeEntry, slotOf, type TextOwner } from './serialization.ts';

/**
 * What other processes know of a key. `found` is good enough. Otherwise somebody has to load, and `entry` is what
 * there is if that fails: the caller, who has the lease (claimed); another process (busy); every process for itself,
 * without storing (the value was too big a moment ago, or Redis is away, and its reply may come late).
 */
export type Reading =
  | { state: 'found'; entry: CacheEntry }
  | { state: 'claimed'; entry: CacheEntry | undefined; lease: Lease }
  | { state: 'busy' | 'too-big'; entry: CacheEntry | undefined }
  | { state: 'away'; entry: CacheEntry | undefined; late?: Promise<CacheEntry | undefined> };

/** The right to store what is loaded; it is lost when the key is purged. Must be ended by one of the two. */
export interface Lease {
  /** Does not wait. */
  store(entry: CacheEntry): void;
  /** `tooBig`: for some seconds no process waits for this value. */
  release(tooBig?: boolean): void;
}

export type RedisTier = ReturnType<typeof createRedisTier>;

/** A load that takes longer is given up by those who wait for it, and not stored. */
export const LOAD_MAX_MS = 60_000;
const RENEW_MS = LEASE_MS / 4;
const PENDING_MAX = 10_000;
const FLUSH_AGAIN_MS = 1000;
/** How long a key waits for Redis that this process knows already: its load is one query. */
const HURRY_MS = 50;
export const AWAY = { state: 'away', entry: undefined } as const satisfies Reading;

/**
 * The tier in Redis that all processes share. No function here throws and none waits longer than one
 * command may: a failure counts as `error` and reads as nothing.
 */
export function createRedisTier(
  prefix: string,
  redis: RedisHandle,
  { log, metrics }: { log: Logger; metrics: Metrics },
) {
  const scripts = defineCacheScripts(redis.client);
  const channel = `${prefix}:purged`;
  const sender = randomUUID();
  /** Invalidations that Redis did not take. */
  const pending = new Set<string>();
  let flushTimer: NodeJS.Timeout | undefined;
  const warn = createIntervalWarning(log);
  redis.onReady(() => void flush());

  // The braces make one cluster slot of all that belongs to one thing.
  const keyOf = (place: string) => `${prefix}:{${place}}`;
  const keysOf = ({ id, place, shape }: TextOwner) => {
    const value = keyOf(place) + slotOf(shape);
    // Who loads one generation is not waited for by who needs the next.
    const generation = id === place ? '' : `:${id.slice(place.length)}`;
    return [value, `${value}:lease${generation}`] as const;
  };

  async function attempt<T>(command: () => Promise<T>): Promise<T | undefined> {
    if (!redis.ready()) return undefined;
    const stop = metrics.upstreamLatency.startTimer({ upstream: 'redis' });
    try {
      return await command();
    } catch (error) {
      metrics.cacheRequests.inc({ result: 'error' });
      warn({ reason: (error as Error).message }, 'the cache could not use Redis');
      return undefined;
    } finally {
      stop();
    }
  }

  /**
   * Removes the value and the lease of the process that loads it, and tells all processes. A failed invalidation is
   * retried every second, and when Redis is back; until then this process does not read the key from Redis.
   */
  async function purge(id: string): Promise<boolean> {
    pending.add(id);
    const done = await attempt(() => scripts.purge(keyOf(id), channel, sender + id));
    // To the end if it failed, and again: another purge of it may have been done, but before the last write.
    pending.delete(id);
    if (done !== undefined) return true;
    pending.add(id);
    const [oldest] = pending;
    if (pending.size > PENDING_MAX && oldest !== undefined) pending.delete(oldest);
    if (redis.ready()) flushTimer ??= setTimeout(() => void flush(), FLUSH_AGAIN_MS).unref();
    return false;
  }

  /** One goes first: a Redis that still refuses does not get all of them. */
  async function flush(): Promise<void> {
    flushTimer = undefined;
    const [first, ...rest] = pending;
    if (first !== undefined && (await purge(first))) await Promise.all(rest.map(purge));
  }

  function holdLease(owner: TextOwner, token: string): Lease {
    const settle = (lease: string, leaseMs: number, ...stored: [] | [string, number]) =>
      void attempt(() => scripts.settle(...keysOf(owner), token, lease, leaseMs, ...stored));
    const endsAtMs = performance.now() + LOAD_MAX_MS;
    const renewal = setInterval(() => {
      if (performance.now() > endsAtMs) clearInterval(renewal);
      else settle(token, LEASE_MS);
    }, RENEW_MS).unref();

    return {
      store(entry) {
        clearInterval(renewal);
        if (pending.has(owner.place)) return;
        const leftMs = Math.max(1, Math.floor(entry.times.lifeMs - entry.ageMs));
        settle('', 0, encodeEntry(entry, owner), leftMs);
      },
      release(tooBig = false) {
        clearInterval(renewal);
        settle(tooBig ? 'too-big' : '', TOO_BIG_MS);
      },
    };
  }

  /**
   * Reads an entry that is younger than `maxAgeInTtls`; without one, tries to get the lease. `hurries`: the caller can
   * do without Redis, and waits for less than a command may take.
   */
  async function read(owner: TextOwner, maxAgeInTtls: number, hurries: boolean): Promise<Reading> {
    const { id, place } = owner;
    if (pending.has(place) && !(await purge(place))) return AWAY;
    const token = randomUUID();
    const atMs = performance.now();
    const replying = attempt(() => scripts.read(...keysOf(owner), token, maxAgeInTtls));
    const reply = await (hurries ? withDeadline(HURRY_MS, replying).catch(() => undefined) : replying);
    if (!reply) {
      // The lease may have been given and only the reply got lost: no process should wait for this one.
      if (redis.ready()) scripts.settle(...keysOf(owner), token, '', 0).catch(() => undefined);
      const late = replying.then((found) =>
        found?.[2] === 'found' && found[0] !== null
          ? decodeEntry(found[0], owner, { leftMs: found[1], atMs })
          : undefined,
      );
      return { ...AWAY, late };
    }
    const [text, leftMs, state] = reply;
    const entry = text === null ? undefined : decodeEntry(text, owner, { leftMs, atMs });
    if (text !== null && !entry && id === place)
      warn({ characters: text.length }, 'a cached value is damaged or of another release; it is replaced');
    // Nothing is young enough for 0: that asks for the lease.
    if (state === 'found') return entry ? { state, entry } : read(owner, 0, hurries);
    return state === 'claimed' ? { state, entry, lease: holdLease(owner, token) } : { state, entry };
  }

  return {
    read,
    purge,

    /** Listens for the purges of the other processes. */
    subscribe(onPurged: (id: string) => void, onGap: () => void): void {
      redis.subscribe(channel, {
        onGap,
        onMessage: (message) => {
          if (!message.startsWith(sender)) onPurged(message.slice(sender.length));
        },
      });
    },
  };
}
