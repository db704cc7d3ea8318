import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import type { Metrics } from '../metrics.ts';
import { CACHE_FORMAT, decodeEntry, type CacheEntry } from './cache-entry.ts';
import { defineCacheCommands } from './cache-scripts.ts';
import { createIntervalWarning } from './log-interval.ts';
import type { RedisHandle } from './redis.ts';

/**
 * What Redis knows of one key. With `lease` the caller is the one who loads, and must `fill` or
 * `release`; `busy`: somebody else does; neither: load without storing (Redis is away, or the value
 * was too big a moment ago).
 */
export interface Held {
  entry?: CacheEntry;
  lease?: string;
  busy: boolean;
}

export type SharedCache = ReturnType<typeof createSharedCache>;

/** Longer than a load takes; after that the next one may load, and the late one cannot store. */
export const LEASE_MS = 10_000;
const TOO_BIG_MS = 5000;
const PURGES_OWED_MAX = 10_000;
export const NOTHING_HELD: Held = { busy: false };

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
  const warn = createIntervalWarning(deps.log);
  defineCacheCommands(client);
  client.on('ready', () => void Promise.all([...owed].map(purge)));

  // The braces make one cluster slot of the two.
  const valueKey = (id: string) => `${prefix}:${CACHE_FORMAT}:{${id}}`;
  const leaseKey = (id: string) => `${valueKey(id)}:lease`;

  async function attempt<T>(command: () => Promise<T>): Promise<T | undefined> {
    if (!redis.ready()) return undefined;
    const stop = deps.metrics.upstreamLatency.startTimer({ upstream: 'redis' });
    try {
      return await command();
    } catch (error) {
      fail((error as Error).message);
      return undefined;
    } finally {
      stop();
    }
  }

  function fail(reason: string): void {
    deps.metrics.cacheRequests.inc({ result: 'error' });
    warn({ reason }, 'the cache could not use Redis');
  }

  /**
   * Takes the value and the lease of whoever loads it now, and tells all processes. When Redis does not
   * answer, the debt is remembered: this process does not read the key before it is paid, and it is paid
   * as soon as Redis is back.
   */
  async function purge(id: string): Promise<boolean> {
    owed.add(id);
    const done = await attempt(() => client.cachePurge(valueKey(id), leaseKey(id), channel, sender + id));
    if (done !== undefined) {
      owed.delete(id);
      return true;
    }
    owed.add(id);
    const [oldest] = owed;
    if (owed.size > PURGES_OWED_MAX && oldest !== undefined) owed.delete(oldest);
    return false;
  }

  return {
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

    /** The entry when it is younger than `ttl * maxAge`; otherwise an attempt to get the lease, with the old entry if there is one. */
    async read(id: string, maxAge: 1 | 2): Promise<Held> {
      if (owed.has(id) && !(await purge(id))) return NOTHING_HELD;
      const token = randomUUID();
      const reply = await attempt(() =>
        client.cacheRead(valueKey(id), leaseKey(id), token, LEASE_MS, maxAge),
      );
      if (!reply) {
        // The lease may have been given and only the answer got lost: nobody should wait for us.
        if (redis.ready()) client.cacheFill(valueKey(id), leaseKey(id), token, '', 0).catch(() => undefined);
        return NOTHING_HELD;
      }
      const [text, leftMs, state] = reply;
      const entry = text === null ? undefined : decodeEntry(text, leftMs);
      if (text !== null && !entry) {
        fail('a cached value cannot be read; it was deleted');
        await attempt(() => client.unlink(valueKey(id)));
      }
      return {
        busy: state === 'busy',
        ...(entry && { entry }),
        ...(state === 'claimed' && { lease: token }),
      };
    },

    /** Stores only while the lease is held, that is: not when the key was purged since. Does not wait. */
    fill(id: string, lease: string, text: string, lifeMs: number): void {
      if (owed.has(id)) return;
      void attempt(() => client.cacheFill(valueKey(id), leaseKey(id), lease, text, lifeMs));
    },

    /** `tooBig`: for some seconds nobody else need wait for this value either. */
    release(id: string, lease: string, tooBig = false): void {
      void attempt(() => client.cacheFill(valueKey(id), leaseKey(id), lease, '', tooBig ? TOO_BIG_MS : 0));
    },
  };
}
