import { withTimeout } from '../../lib/timeouts.ts';
import { shareRun } from '../../lib/single-flight.ts';
import type { Metrics } from '../../observability/metrics.ts';
import type { Db } from '../../postgres/postgres.ts';
import { readAppliedMigrations } from '../../postgres/readiness.ts';
import type { ReplicaReader } from '../../postgres/replica/replica.ts';
import { startProcessUsage, toTenths, type UsageSource } from './process-usage.ts';
import type { Status } from './schema.ts';

type RedisState = Status['redis']['limits'];

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

/** A status is wanted most while Postgres does not respond. */
const TIMEOUT_MS = 1_000;
/** Reads that did not load. */
const HITS = new Set<unknown>(['hit', 'stale', 'negative', 'coalesced']);

/** Reads the status of this process, in little more than a second whatever hangs. */
export function startStatus(options: StatusOptions) {
  const { db, replica, redis, metrics } = options;
  const usage = startProcessUsage(options.usageSource);
  // One query at a time: a frozen Postgres must not collect a connection for each request.
  const readSchema = shareRun(() =>
    readAppliedMigrations(db.checks).then(
      (names) => ({ version: names.at(-1) ?? null }),
      () => undefined,
    ),
  );

  return {
    close: async (): Promise<void> => usage.close(),

    async read(): Promise<Omit<Status, 'version' | 'uptime_seconds' | 'draining'>> {
      const [schema, lagSeconds, cache, mode] = await Promise.all([
        withTimeout(readSchema(), TIMEOUT_MS),
        replica ? replica.lagSeconds() : null,
        readCache(),
        readMode(),
      ]);
      const { max, size, active, waiting } = db.stats();
      return {
        process: usage.read(),
        database: {
          state: schema ? 'connected' : 'disconnected',
          schema_version: schema?.version ?? null,
          pool_size: max,
          pool_open: size,
          pool_active: active,
          pool_waiting: waiting,
          pool_utilization_percent: toTenths((100 * active) / max),
          replica_lag_seconds: lagSeconds,
        },
        cache,
        redis: { limits: redis.limits?.state() ?? 'none', cache: redis.cache?.state() ?? 'none' },
        rate_limit: { mode },
      };
    },
  };

  async function readCache(): Promise<Status['cache']> {
    const { values } = await metrics.cacheRequests.get();
    let [hits, misses] = [0, 0];
    for (const { labels, value } of values) {
      if (HITS.has(labels.result)) hits += value;
      else if (labels.result === 'miss') misses += value;
    }
    const percent = hits + misses === 0 ? null : toTenths((100 * hits) / (hits + misses));
    return { enabled: options.cacheEnabled, hits, misses, hit_rate_percent: percent };
  }

  async function readMode(): Promise<Status['rate_limit']['mode']> {
    if (!options.rateLimitEnabled) return 'off';
    if (!redis.limits) return 'local';
    const { values } = await metrics.rateLimitLocal.get();
    return values[0]?.value === 1 ? 'fallback' : 'redis';
  }
}
