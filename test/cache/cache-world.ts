import { setTimeout as delay } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { pino } from 'pino';
import type { Test } from 'tap';
import { createMetrics } from '../../src/observability/metrics.ts';
import { encodeKey, type CacheKey } from '../../src/cache/serialization.ts';
import { createCache, type CacheReadOptions } from '../../src/cache/cache.ts';
import { openRedis } from '../../src/redis/redis.ts';
import { redisUrl } from '../support/redis.ts';
import { until } from '../support/until.ts';

// What the tests of the cache share.

/** A busy machine is no outage. */
const COMMAND_TIMEOUT_MS = 3000;
export const KEY: CacheKey = { tenant: 'acme', name: 'order', id: '1' };

export const redisKey = (key: CacheKey) => `test:{${encodeKey(key)}}`;
export const leaseKey = (key: CacheKey) => `${redisKey(key)}:lease`;

export interface CacheSettings {
  ttlSeconds?: number;
  maxRows?: number;
  singleProcess?: boolean;
  commandTimeoutMs?: number;
  /** Hears of no invalidation, as if every message got lost. */
  deaf?: boolean;
}

/** One process as the cache sees it: a connection, a cache, and the results it counted. */
export async function openProcess(t: Test, url: string | undefined, settings: CacheSettings = {}) {
  const { commandTimeoutMs = COMMAND_TIMEOUT_MS, deaf = false, ...rest } = settings;
  const lines: Record<string, string>[] = [];
  const log = pino({ messageKey: 'message' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const metrics = createMetrics('test');
  const redis = url ? openRedis({ url, commandTimeoutMs, role: 'cache' }, { log, metrics }) : undefined;
  if (redis) t.teardown(() => redis.close());
  const cache = createCache(
    { prefix: 'test', ttlSeconds: 60, maxRows: 100, singleProcess: false, ...rest },
    {
      log,
      metrics,
      ...(redis && { redis: deaf ? { ...redis, subscribe: () => ({ live: () => true }) } : redis }),
    },
  );
  const heard = redis?.subscribe('test:purged', { onMessage() {}, onGap() {} });
  if (redis) await until('Redis is ready', () => redis.ready() && (heard?.live() ?? false));

  const results = async (): Promise<Record<string, number>> => {
    const { values } = await metrics.cacheRequests.get();
    return Object.fromEntries(
      values.filter(({ value }) => value > 0).map(({ labels, value }) => [labels.result, value]),
    );
  };

  return {
    cache,
    lines,
    results,
    redis: redis as ReturnType<typeof openRedis>,
    client: redis?.client as Redis,
    /** One read, and what it was counted as. */
    async read<T>(key: CacheKey, load: () => Promise<T | undefined>, options?: CacheReadOptions<T>) {
      const before = await results();
      const { value, ageSeconds } = await cache.read(key, load, options);
      const after = await results();
      const result = Object.keys(after).find((name) => name !== 'error' && after[name] !== before[name]);
      return { value, ageSeconds, result };
    },
  };
}

export type CacheProcess = Awaited<ReturnType<typeof openProcess>>;

/** Two processes on one Redis that is empty. */
export async function openProcesses(t: Test, settings: CacheSettings = {}) {
  const url = await redisUrl(t);
  if (!url) return undefined;
  const a = await openProcess(t, url, settings);
  await a.client.flushdb();
  return { url, a, b: await openProcess(t, url, settings) };
}

export const isStored = ({ client }: CacheProcess, key = KEY) =>
  until('it is stored in Redis', async () => (await client.exists(redisKey(key))) === 1);

/** Makes what Redis holds look as if it had been loaded so long ago. */
export async function age({ client }: CacheProcess, ms: number, key = KEY): Promise<void> {
  const lifeMs = Number((await client.get(redisKey(key)))?.split(' ')[2]);
  await client.pexpire(redisKey(key), lifeMs - ms);
}

/** Stores 'old', and makes it look as if it had been loaded so long ago. */
export async function storeOld(process: CacheProcess, ageMs = 0, key = KEY): Promise<void> {
  await process.cache.get(key, async () => 'old');
  await isStored(process, key);
  if (ageMs > 0) await age(process, ageMs, key);
}

/** A load that counts itself, and that a test can hold up. */
export function createLoad<T>(value: T, gate: Promise<unknown> = Promise.resolve()) {
  const load = async (): Promise<T> => {
    load.calls += 1;
    const mine = load.value;
    await gate;
    return mine;
  };
  load.calls = 0;
  load.value = value;
  return load;
}

export function createFailure(error: Error) {
  const load = async (): Promise<never> => {
    load.calls += 1;
    throw error;
  };
  load.calls = 0;
  return load;
}

export function createGate() {
  const steps: (() => void)[] = [];
  const opened = new Promise<void>((resolve) => void steps.push(resolve));
  return { opened, open: () => steps.forEach((step) => step()) };
}

export const neverLoad = async (): Promise<string | undefined> => {
  throw new Error('must not be loaded');
};

export async function timed<T>(work: Promise<T>): Promise<{ value: T; tookMs: number }> {
  const startedAtMs = performance.now();
  const value = await work;
  return { value, tookMs: performance.now() - startedAtMs };
}

/** Longer than a process believes what it keeps. */
export const distrust = () => delay(1010);
