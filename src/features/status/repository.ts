import { inTime } from '../../lib/in-time.ts';
import type { Metrics } from '../../observability/metrics.ts';
import { startProcessUsage, type ProcessUsage, type UsageSource } from '../../observability/process-usage.ts';
import type { Db } from '../../postgres/postgres.ts';
import type { ReplicaReader } from '../../postgres/replica/replica.ts';
import { readSchemaVersion } from '../../postgres/schema-version.ts';

/** What one process knows of itself and of what it depends on. */
export interface Status {
  process: ProcessUsage;
  database: {
    state: 'connected' | 'disconnected';
    /** The newest migration; null when nobody could be asked, or the database was never migrated. */
    schemaVersion: string | null;
    /** `size` is how many connections there may be, `open` how many there are. */
    pool: { size: number; open: number; active: number; waiting: number };
    /** Null without a replica. */
    replicaLagSeconds: number | null;
  };
  /** Reads since the start; the ratio is null before the first of them. */
  cache: { enabled: boolean; hits: number; misses: number; hitRatio: number | null };
  redis: { limits: RedisState; cache: RedisState };
  rateLimit: RateLimitMode;
}

export const REDIS_STATES = ['connected', 'degraded', 'disconnected', 'none'] as const;
type RedisState = (typeof REDIS_STATES)[number];

/** `fallback`: Redis is away and each process admits its share. `local`: there is no Redis. */
export const RATE_LIMIT_MODES = ['redis', 'fallback', 'local', 'off'] as const;
type RateLimitMode = (typeof RATE_LIMIT_MODES)[number];

export interface StatusOptions {
  db: Db;
  /** Undefined when there is no replica that could lag. */
  replica: ReplicaReader | undefined;
  redis: Record<keyof Status['redis'], { state(): RedisState } | undefined>;
  cacheEnabled: boolean;
  rateLimitEnabled: boolean;
  metrics: Metrics;
  usageSource: UsageSource;
}

export type StatusReader = ReturnType<typeof startStatus>;

/** A status is wanted most while Postgres does not answer. */
const ANSWER_WITHIN_MS = 1_000;
/** Reads that did not load. */
const HITS = ['hit', 'stale', 'negative', 'coalesced'];

/** Reads the status of this process, in little more than a second whatever hangs. */
export function startStatus(options: StatusOptions) {
  const { db, replica, redis, cacheEnabled, rateLimitEnabled, metrics } = options;
  const usage = startProcessUsage(options.usageSource);
  let asking: Promise<{ version: string | null } | undefined> | undefined;

  return {
    close: async (): Promise<void> => usage.close(),

    async read(): Promise<Status> {
      const [schema, replicaLagSeconds, cache, rateLimit] = await Promise.all([
        inTime(askSchema(), ANSWER_WITHIN_MS),
        replica ? replica.lagSeconds() : null,
        readCache(),
        readRateLimit(),
      ]);
      const { max: size, size: open, active, waiting } = db.stats();
      return {
        process: usage.read(),
        database: {
          state: schema ? 'connected' : 'disconnected',
          schemaVersion: schema?.version ?? null,
          pool: { size, open, active, waiting },
          replicaLagSeconds,
        },
        cache,
        redis: { limits: stateOf(redis.limits), cache: stateOf(redis.cache) },
        rateLimit,
      };
    },
  };

  /** One question at a time: a frozen Postgres must not collect a connection for each that asks. */
  function askSchema() {
    asking ??= readSchemaVersion(db.checks)
      .then(
        (version) => ({ version: version ?? null }),
        () => undefined,
      )
      .finally(() => (asking = undefined));
    return asking;
  }

  async function readCache(): Promise<Status['cache']> {
    const { values } = await metrics.cacheRequests.get();
    const counts = values.map(({ labels, value }) => ({ result: String(labels.result), value }));
    const sum = (results: string[]) =>
      counts.reduce((total, { result, value }) => total + (results.includes(result) ? value : 0), 0);
    const [hits, misses] = [sum(HITS), sum(['miss'])];
    const reads = hits + misses;
    return { enabled: cacheEnabled, hits, misses, hitRatio: reads === 0 ? null : hits / reads };
  }

  async function readRateLimit(): Promise<RateLimitMode> {
    if (!rateLimitEnabled) return 'off';
    if (!redis.limits) return 'local';
    const { values } = await metrics.rateLimitLocal.get();
    return values[0]?.value === 1 ? 'fallback' : 'redis';
  }

  function stateOf(handle: { state(): RedisState } | undefined): RedisState {
    return handle?.state() ?? 'none';
  }
}
