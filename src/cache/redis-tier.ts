import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import type { Metrics } from '../observability/metrics.ts';
import type { CacheEntry } from './entry.ts';
import { LEASE_MS, TOO_BIG_MS, defineCacheCommands } from './scripts.ts';
import { decodeEntry, encodeEntry, slotOf, type TextOwner } from './serialization.ts';
import { createIntervalWarning } from '../lib/log-interval.ts';
import { within } from '../lib/retry-delay.ts';
import type { RedisHandle } from '../redis/redis.ts';

/**
 * What is known of one key outside of this process. `found` is good enough. Otherwise somebody has to load,
 * and `entry` is what there is if that fails: the caller, who has the lease (claimed); another process
 * (busy); everybody for himself, without storing (too-big a moment ago, or Redis is away, and what it had may come late).
 */
export type Held =
  | { state: 'found'; entry: CacheEntry }
  | { state: 'claimed'; entry: CacheEntry | undefined; lease: Lease }
  | { state: 'busy' | 'too-big'; entry: CacheEntry | undefined }
  | { state: 'away'; entry: CacheEntry | undefined; late?: Promise<CacheEntry | undefined> };

/** The right to store what is loaded; it is lost when the key is purged. Must be ended by one of the two. */
export interface Lease {
  /** Does not wait. */
  store(entry: CacheEntry): void;
  /** `tooBig`: for some seconds nobody else need wait for this value either. */
  release(tooBig?: boolean): void;
}

export type SharedCache = ReturnType<typeof createSharedCache>;

/** A load that takes longer is given up by those who wait for it, and not stored. */
export const LOAD_MAX_MS = 60_000;
const RENEW_MS = LEASE_MS / 4;
const PURGES_OWED_MAX = 10_000;
const PAY_AGAIN_MS = 1000;
/** How long a key waits for Redis that this process knows already: its load is one query. */
const HURRY_MS = 50;
export const AWAY = { state: 'away', entry: undefined } as const satisfies Held;

/**
 * The tier in Redis that all processes share. No function here throws and none waits longer than one
 * command may: a failure counts as `error` and reads as nothing.
 */
export function createSharedCache(
  prefix: string,
  redis: RedisHandle,
  deps: { log: Logger; metrics: Metrics },
) {
  const { client } = redis;
  const channel = `${prefix}:purged`;
  const sender = randomUUID();
  const owed = new Set<string>();
  let payingLater: NodeJS.Timeout | undefined;
  const warn = createIntervalWarning(deps.log);
  defineCacheCommands(client);
  redis.onReady(() => void pay());

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
    const stop = deps.metrics.upstreamLatency.startTimer({ upstream: 'redis' });
    try {
      return await command();
    } catch (error) {
      deps.metrics.cacheRequests.inc({ result: 'error' });
      warn({ reason: (error as Error).message }, 'the cache could not use Redis');
      return undefined;
    } finally {
      stop();
    }
  }

  /**
   * Takes the value and the lease of whoever loads it now, and tells all processes. When Redis does not do
   * it, the debt is remembered: this process does not read the key before it is paid, and tries to pay it
   * when Redis is back and every second while it is there.
   */
  async function purge(id: string): Promise<boolean> {
    owed.add(id);
    const done = await attempt(() => client.cachePurge(keyOf(id), channel, sender + id));
    if (done !== undefined) {
      owed.delete(id);
      return true;
    }
    // To the end, and again: another purge of it may have been done meanwhile, but before the last write.
    owed.delete(id);
    owed.add(id);
    const [oldest] = owed;
    if (owed.size > PURGES_OWED_MAX && oldest !== undefined) owed.delete(oldest);
    if (redis.ready()) payingLater ??= setTimeout(() => void pay(), PAY_AGAIN_MS).unref();
    return false;
  }

  /** One goes first: a Redis that still refuses is not asked for all of them. */
  async function pay(): Promise<void> {
    payingLater = undefined;
    const [first, ...rest] = owed;
    if (first !== undefined && (await purge(first))) await Promise.all(rest.map(purge));
  }

  function holdLease(owner: TextOwner, token: string): Lease {
    const settle = (lease: string, leaseMs: number, ...stored: [] | [string, number]) =>
      void attempt(() => client.cacheSettle(...keysOf(owner), token, lease, leaseMs, ...stored));
    const endsAtMs = performance.now() + LOAD_MAX_MS;
    const renewal = setInterval(() => {
      if (performance.now() > endsAtMs) clearInterval(renewal);
      else settle(token, LEASE_MS);
    }, RENEW_MS).unref();

    return {
      store(entry) {
        clearInterval(renewal);
        if (owed.has(owner.place)) return;
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
   * Looks for an entry that is younger than `maxAgeInTtls`; without one, tries to get the lease. `hurries`: whoever
   * asks can do without Redis, and waits for less than a command may take.
   */
  async function read(owner: TextOwner, maxAgeInTtls: number, hurries: boolean): Promise<Held> {
    const { id, place } = owner;
    if (owed.has(place) && !(await purge(place))) return AWAY;
    const token = randomUUID();
    const atMs = performance.now();
    const asked = attempt(() => client.cacheRead(...keysOf(owner), token, maxAgeInTtls));
    const reply = await (hurries ? within(HURRY_MS, asked).catch(() => undefined) : asked);
    if (!reply) {
      // The lease may have been given and only the answer got lost: nobody should wait for us.
      if (redis.ready()) client.cacheSettle(...keysOf(owner), token, '', 0).catch(() => undefined);
      const late = asked.then((found) =>
        found?.[2] === 'found' && found[0] !== null
          ? decodeEntry(found[0], owner, { leftMs: found[1], atMs })
          : undefined,
      );
      return { ...AWAY, late };
    }
    const [text, leftMs, state] = reply;
    const entry = text === null ? undefined : decodeEntry(text, owner, { leftMs, atMs });
    if (text !== null && !entry && id === place) {
      warn({ characters: text.length }, 'a cached value is damaged or of another release; it is replaced');
    }
    // Nothing is young enough for 0: that asks for the lease.
    if (state === 'found') return entry ? { state, entry } : read(owner, 0, hurries);
    return state === 'claimed' ? { state, entry, lease: holdLease(owner, token) } : { state, entry };
  }

  return {
    read,
    purge,

    /** Hears the purges of the other processes. */
    listen(onPurged: (id: string) => void, onGap: () => void): void {
      redis.subscribe(channel, {
        onGap,
        onMessage: (message) => {
          if (!message.startsWith(sender)) onPurged(message.slice(sender.length));
        },
      });
    },
  };
}
