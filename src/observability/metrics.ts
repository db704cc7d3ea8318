import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';
import { ERROR_CODES } from '../errors.ts';

/** nginx's number for a client that left before its response. */
export const CLIENT_CLOSED_REQUEST = 499;

/** Buckets in seconds; every threshold that an alert names (1, 3, 5, 10, 30) is one of them. */
const LATENCY_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3, 5, 10, 30];

const CACHE_RESULTS = ['hit', 'stale', 'miss', 'coalesced', 'negative', 'error'] as const;
const AUTH_FAILURES = ['missing', 'malformed', 'unknown', 'revoked', 'expired', 'scope', 'limited'] as const;
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

interface ClosedCounter<Labels extends ClosedLabels> extends Pick<Counter, 'get'> {
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

  /**
   * Makes a counter of a feature's own, where the feature is: every value that each label can have, and a name
   * that ends in `_total`. For another kind of metric use the classes of prom-client with
   * `registers: [metrics.registry]`.
   */
  function counter<const Labels extends ClosedLabels>(options: {
    name: string;
    help: string;
    labels: Labels;
  }): ClosedCounter<Labels> {
    const { name, help, labels } = options;
    const made = new Counter({ name, help, labelNames: Object.keys(labels), registers });
    for (const series of combine(labels)) made.inc(series, 0);
    return made;
  }

  const count = (name: string, help: string) => new Counter({ name, help, registers });
  const gauge = (name: string, help: string) => new Gauge({ name, help, registers });
  /** One for the limits and one for the cache. */
  const redisGauge = (name: string, help: string) => {
    const made = new Gauge({ name, help, labelNames: ['role'], registers });
    for (const role of ['limits', 'cache']) made.set({ role }, 0);
    return made;
  };
  const histogram = <Label extends string>(
    name: string,
    help: string,
    buckets: number[],
    labelNames: Label[] = [],
  ) => new Histogram({ name, help, buckets, labelNames, registers });

  const build = new Gauge({
    name: 'api_build_info',
    help: 'Version of the service',
    labelNames: ['version'],
    registers,
  });
  build.set({ version }, 1);

  const metrics = {
    registry,
    counter,

    requests: new Counter({
      name: 'api_requests_total',
      help: 'Requests answered, by method, route pattern and status',
      labelNames: ['method', 'route', 'status'],
      registers,
    }),
    requestLatency: histogram(
      'api_request_latency_seconds',
      'Time from the request line to the end of the answer',
      LATENCY_BUCKETS,
      ['method', 'route'],
    ),
    requestsInFlight: gauge('api_requests_in_flight', 'Requests being worked on'),
    errors: counter({
      name: 'api_errors_total',
      help: 'Problem answers, by their code',
      labels: { code: ERROR_CODES },
    }),
    slowRequests: count('api_slow_requests_total', 'Requests slower than SLOW_REQUEST_THRESHOLD_MS'),
    logLinesDropped: count(
      'log_lines_dropped_total',
      'Log lines lost because stdout took no more: a full disk, or a reader that stalls or is gone',
    ),

    queryLatency: histogram(
      'db_query_latency_seconds',
      'Time of one statement, without the wait for a connection',
      [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3, 10, 30],
      ['target'],
    ),
    poolWait: histogram(
      'db_pool_wait_seconds',
      'Time a request waited for a pooled connection',
      [0.001, 0.01, 0.1, 0.5, 1, 3],
    ),
    dbErrors: count(
      'db_connection_errors_total',
      'Connections that failed, broke, or could not be had in time',
    ),
    activeConnections: gauge('db_active_connections', 'Connections to Postgres that this process holds'),
    poolSize: gauge('db_pool_size', 'Largest size of the pool'),
    poolActive: gauge('db_pool_active', 'Pooled connections in use'),
    poolWaiting: gauge('db_pool_waiting', 'Callers that wait for a connection'),
    replicaLag: gauge('db_replica_lag_seconds', 'How far the read replica is behind; 0 without a replica'),

    cacheRequests: counter({
      name: 'cache_requests_total',
      help: 'Cache reads, by result',
      labels: { result: CACHE_RESULTS },
    }),
    redisConfigured: redisGauge(
      'redis_configured',
      '1 when this role has a Redis, 0 when memory of the process stands for it',
    ),
    redisUp: redisGauge(
      'redis_up',
      '1 when the connection of this role is usable, 0 when it is not or none is configured',
    ),
    upstreamLatency: histogram(
      'upstream_request_latency_seconds',
      'Time of one command of the cache to Redis, or of one call of a feature to another service',
      [0.001, 0.005, 0.025, 0.1, 0.25, 1, 5, 30],
      ['upstream'],
    ),

    rateLimitHits: counter({
      name: 'rate_limit_hits_total',
      help: 'Requests refused by a limit',
      labels: { limit: ['key', 'burst', 'tenant', 'ip'] },
    }),
    rateLimitFallback: count(
      'rate_limit_fallback_total',
      'Requests that were limited by the share of this process because Redis did not answer',
    ),
    rateLimitLocal: gauge(
      'rate_limit_local',
      '1 when the last request was limited by the share of this process, 0 when by Redis',
    ),
    authFailures: counter({
      name: 'auth_failures_total',
      help: 'Requests refused for their key, by reason',
      labels: { reason: AUTH_FAILURES },
    }),
    revokedKeyAttempts: count('revoked_key_attempts_total', 'Requests that presented a revoked key'),
  };
  for (const target of ['primary', 'replica']) metrics.queryLatency.zero({ target });
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
