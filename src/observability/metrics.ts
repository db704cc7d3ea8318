import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';
import { ERROR_CODES } from '../errors.ts';

/** nginx's number for a client that left before its response. */
export const CLIENT_CLOSED_REQUEST = 499;

/** Buckets in seconds; every threshold that an alert names (1, 3, 5, 10, 30) is one of them. */
const LATENCY_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3, 5, 10, 30];

export const CACHE_RESULTS = ['hit', 'stale', 'miss', 'coalesced', 'negative', 'error'] as const;
export const AUTH_FAILURES = [
  'missing',
  'malformed',
  'unknown',
  'revoked',
  'expired',
  'scope',
  'limited',
] as const;
export type CacheResult = (typeof CACHE_RESULTS)[number];
export type AuthFailure = (typeof AUTH_FAILURES)[number];

/** Sums of default metrics that are called as counters are, and are none. */
const MISNAMED = [
  'nodejs_active_handles_total',
  'nodejs_active_requests_total',
  'nodejs_active_resources_total',
];
/** Of the default metrics the one that has no series before something happens. */
const GC_KINDS = ['major', 'minor', 'incremental', 'weakcb'];

export type Metrics = ReturnType<typeof createMetrics>;

/** All values that each label can have. */
type ClosedLabels = Record<string, readonly string[]>;

export interface ClosedCounter<Labels extends ClosedLabels> {
  /** By 1. */
  inc(labels: { [Name in keyof Labels]: Labels[Name][number] }): void;
}

/**
 * All metrics of one service in a registry of its own, so that several apps can live in one
 * process. Labels come from closed sets and every labelled series starts at 0: `rate()` and
 * `absent()` behave from the first scrape.
 */
export function createMetrics(version: string) {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  for (const name of MISNAMED) registry.removeSingleMetric(name);
  const gc = registry.getSingleMetric('nodejs_gc_duration_seconds');
  if (gc instanceof Histogram) for (const kind of GC_KINDS) gc.zero({ kind });

  const metrics = {
    registry,

    /**
     * A counter of a feature's own, made where the feature is: `metrics.counter({ name, help, labels })`
     * with every value that each label can have. For another kind of metric use the classes of
     * prom-client with `registers: [metrics.registry]`.
     */
    counter<const Labels extends ClosedLabels>(options: {
      /** Ends in `_total`. */
      name: string;
      help: string;
      labels: Labels;
    }): ClosedCounter<Labels> {
      const { labels, ...rest } = options;
      const made = new Counter({ ...rest, labelNames: Object.keys(labels), registers });
      for (const series of combine(labels)) made.inc(series, 0);
      return made;
    },

    requests: new Counter({
      name: 'api_requests_total',
      help: 'Requests answered, by method, route pattern and status',
      labelNames: ['method', 'route', 'status'],
      registers,
    }),
    requestLatency: new Histogram({
      name: 'api_request_latency_seconds',
      help: 'Time from the request line to the end of the answer',
      labelNames: ['method', 'route'],
      buckets: LATENCY_BUCKETS,
      registers,
    }),
    requestsInFlight: new Gauge({
      name: 'api_requests_in_flight',
      help: 'Requests being worked on',
      registers,
    }),
    errors: new Counter({
      name: 'api_errors_total',
      help: 'Problem answers, by their code',
      labelNames: ['code'],
      registers,
    }),
    queryLatency: new Histogram({
      name: 'db_query_latency_seconds',
      help: 'Time of one statement, without the wait for a connection',
      labelNames: ['target'],
      buckets: [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3, 10, 30],
      registers,
    }),
    poolWait: new Histogram({
      name: 'db_pool_wait_seconds',
      help: 'Time a request waited for a pooled connection',
      buckets: [0.001, 0.01, 0.1, 0.5, 1, 3],
      registers,
    }),
    dbErrors: new Counter({
      name: 'db_connection_errors_total',
      help: 'Connections that failed, broke, or could not be had in time',
      registers,
    }),
    activeConnections: new Gauge({
      name: 'db_active_connections',
      help: 'Connections to Postgres that this process holds',
      registers,
    }),
    poolSize: new Gauge({ name: 'db_pool_size', help: 'Largest size of the pool', registers }),
    poolActive: new Gauge({ name: 'db_pool_active', help: 'Pooled connections in use', registers }),
    poolWaiting: new Gauge({
      name: 'db_pool_waiting',
      help: 'Callers that wait for a connection',
      registers,
    }),
    replicaLag: new Gauge({
      name: 'db_replica_lag_seconds',
      help: 'How far the read replica is behind; 0 without a replica',
      registers,
    }),
    cacheRequests: new Counter({
      name: 'cache_requests_total',
      help: 'Cache reads, by result',
      labelNames: ['result'],
      registers,
    }),
    redisConfigured: new Gauge({
      name: 'redis_configured',
      help: '1 when this role has a Redis, 0 when memory of the process stands for it',
      labelNames: ['role'],
      registers,
    }),
    redisUp: new Gauge({
      name: 'redis_up',
      help: '1 when the connection of this role is usable, 0 when it is not or none is configured',
      labelNames: ['role'],
      registers,
    }),
    rateLimitHits: new Counter({
      name: 'rate_limit_hits_total',
      help: 'Requests refused by a limit',
      labelNames: ['limit'],
      registers,
    }),
    rateLimitFallback: new Counter({
      name: 'rate_limit_fallback_total',
      help: 'Requests that were limited by the share of this process because Redis did not answer',
      registers,
    }),
    rateLimitLocal: new Gauge({
      name: 'rate_limit_local',
      help: '1 when the last request was limited by the share of this process, 0 when by Redis',
      registers,
    }),
    authFailures: new Counter({
      name: 'auth_failures_total',
      help: 'Requests refused for their key, by reason',
      labelNames: ['reason'],
      registers,
    }),
    revokedKeyAttempts: new Counter({
      name: 'revoked_key_attempts_total',
      help: 'Requests that presented a revoked key',
      registers,
    }),
    upstreamLatency: new Histogram({
      name: 'upstream_request_latency_seconds',
      help: 'Time of one command of the cache to Redis, or of one call of a feature to another service',
      labelNames: ['upstream'],
      buckets: [0.001, 0.005, 0.025, 0.1, 0.25, 1, 5, 30],
      registers,
    }),
    slowRequests: new Counter({
      name: 'api_slow_requests_total',
      help: 'Requests slower than SLOW_REQUEST_THRESHOLD_MS',
      registers,
    }),
    logLinesDropped: new Counter({
      name: 'log_lines_dropped_total',
      help: 'Log lines lost because stdout took no more: a full disk, or a reader that stalls or is gone',
      registers,
    }),
  };

  new Gauge({
    name: 'api_build_info',
    help: 'Version of the service',
    labelNames: ['version'],
    registers,
  }).set({ version }, 1);
  for (const code of ERROR_CODES) metrics.errors.inc({ code }, 0);
  for (const result of CACHE_RESULTS) metrics.cacheRequests.inc({ result }, 0);
  for (const reason of AUTH_FAILURES) metrics.authFailures.inc({ reason }, 0);
  for (const target of ['primary', 'replica']) metrics.queryLatency.zero({ target });
  for (const role of ['limits', 'cache']) {
    metrics.redisConfigured.set({ role }, 0);
    metrics.redisUp.set({ role }, 0);
  }
  for (const limit of ['key', 'burst', 'tenant', 'ip']) metrics.rateLimitHits.inc({ limit }, 0);
  metrics.upstreamLatency.zero({ upstream: 'redis' });
  return metrics;
}

/** Every combination of the labels' values. */
function combine(labels: ClosedLabels): Record<string, string>[] {
  let series: Record<string, string>[] = [{}];
  for (const [name, values] of Object.entries(labels)) {
    series = series.flatMap((known) => values.map((value) => ({ ...known, [name]: value })));
  }
  return series;
}
