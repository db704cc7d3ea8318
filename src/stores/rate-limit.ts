import { LRUCache } from 'lru-cache';
import type { Logger } from 'pino';
import type { Metrics } from '../metrics.ts';
import type { RedisHandle } from './redis.ts';

export interface RateLimitStoreOptions {
  /** Counts one request in Redis and resolves to the count and the ms left of its window; undefined without Redis. */
  count: ((key: string, windowMs: number) => Promise<Count>) | undefined;
  expectedReplicas: number;
  log: Logger;
  metrics: Metrics;
}

export interface Count {
  current: number;
  ttl: number;
}

type Callback = (error: Error | null, result?: Count) => void;

const REMEMBERED_KEYS = 50_000;
const LOG_INTERVAL_MS = 10_000;
/** After a failure Redis is left alone for so long: a frozen one costs few requests their patience, not each. */
const PAUSE_MS = 500;

/**
 * The store behind @fastify/rate-limit, as the class that the plugin asks for: counts in Redis for
 * all processes together. Without Redis no request fails and no limit disappears: this process then
 * admits its share, limit / expected replicas, and a metric says so.
 */
export function createRateLimitStore(options: RateLimitStoreOptions) {
  const windows = new LRUCache<string, { current: number; resetAt: number }>({ max: REMEMBERED_KEYS });
  let loggedAt = -Infinity;
  let pausedUntil = -Infinity;
  options.metrics.rateLimitLocal.set(options.count ? 0 : 1);

  function countHere(key: string, windowMs: number): Count {
    const now = performance.now();
    const known = windows.get(key);
    const entry = known && known.resetAt > now ? known : { current: 0, resetAt: now + windowMs };
    if (entry !== known) windows.set(key, entry);
    entry.current++;
    // Fractions of milliseconds do not add up exactly, and a window of 60 s must not end in 61.
    return { current: entry.current, ttl: Math.min(windowMs, entry.resetAt - now) };
  }

  /** The plugin compares with the whole limit, so what the other processes may use counts as used. */
  function share(key: string, windowMs: number, max: number): Count {
    const { current, ttl } = countHere(key, windowMs);
    const own = Math.max(1, Math.floor(max / options.expectedReplicas));
    return { current: current + Math.max(0, max - own), ttl };
  }

  function tell(error: Error): void {
    options.metrics.rateLimitLocal.set(1);
    if (performance.now() - loggedAt < LOG_INTERVAL_MS) return;
    loggedAt = performance.now();
    options.log.warn({ reason: error.message }, 'Redis is away: limits are kept per process');
  }

  return class RateLimitStore {
    incr(key: string, callback: Callback, windowMs: number, max: number): void {
      const id = `${key}:${windowMs}`;
      if (!options.count) return callback(null, share(id, windowMs, max));
      if (performance.now() < pausedUntil) return fallBack();

      options.count(id, windowMs).then(
        (result) => {
          options.metrics.rateLimitLocal.set(0);
          callback(null, result);
        },
        (error: Error) => {
          pausedUntil = performance.now() + PAUSE_MS;
          tell(error);
          fallBack();
        },
      );

      function fallBack(): void {
        options.metrics.rateLimitFallback.inc();
        callback(null, share(id, windowMs, max));
      }
    }

    child(): RateLimitStore {
      return this;
    }
  };
}

/** One atomic step: a counter never lives without its expiry. Answers the count and the ms left. */
const COUNT_SCRIPT = `
local current = redis.call('incr', KEYS[1])
if current == 1 then redis.call('pexpire', KEYS[1], ARGV[1]) end
return { current, redis.call('pttl', KEYS[1]) }
`;

interface CountCommand {
  hardpointCount(key: string, windowMs: number): Promise<[current: number, ttl: number]>;
}

/** Counts in Redis; rejects at once when it is away, within the command timeout when it is silent. */
export function createRedisCounter({
  client,
  ready,
}: RedisHandle): (key: string, windowMs: number) => Promise<Count> {
  client.defineCommand('hardpointCount', { numberOfKeys: 1, lua: COUNT_SCRIPT });
  return async (key, windowMs) => {
    if (!ready()) throw new Error('Redis is not connected');
    const [current, ttl] = await (client as unknown as CountCommand).hardpointCount(
      `hp:limit:${key}`,
      windowMs,
    );
    return { current, ttl };
  };
}
