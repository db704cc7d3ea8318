import {
  bindAddress,
  decimalNumber,
  flag,
  headerList,
  headerNames,
  keyEnvironment,
  keyList,
  oneOf,
  optional,
  originList,
  proxyList,
  scaled,
  strongSecret,
  wholeNumber,
  type Kind,
} from './kinds.ts';
import { collectorUrl, postgresUrl, redisUrl } from './urls.ts';

export type Env = Record<string, string | undefined>;

/** One environment variable. `default` is text as it would stand in the environment; '' means unset. */
export interface Variable<T = unknown> extends Kind<T> {
  name: string;
  default: string;
  required?: true;
}

function variable<T>(name: string, kind: Kind<T>, preset = ''): Variable<T> {
  return { ...kind, name, default: preset };
}

const port = wholeNumber(0, 65_535);
const cost = wholeNumber(1, 1000);
const seconds = decimalNumber;
const secondsAsMs = (min: number, max: number) => scaled(decimalNumber(min, max), 1000);
const mebibytesAsBytes = (min: number, max: number) => scaled(decimalNumber(min, max), 1024 * 1024);

/**
 * The configuration as the service sees it, each value with the variable that it is read from. `.env.example` says
 * what each variable is for, in the same order.
 */
export const SETTINGS = {
  http: {
    host: variable('API_HOST', bindAddress, '0.0.0.0'),
    port: variable('API_PORT', port, '8000'),
    metricsEnabled: variable('METRICS_ENABLED', flag, 'true'),
    metricsHost: variable('METRICS_HOST', bindAddress, '127.0.0.1'),
    metricsPort: variable('METRICS_PORT', port, '9090'),
    trustedProxies: variable('TRUSTED_PROXIES', proxyList),
    enforceHttps: variable('ENFORCE_HTTPS', flag, 'false'),
    corsOrigins: variable('CORS_ORIGINS', originList),
    corsAllowedHeaders: variable('CORS_ALLOWED_HEADERS', headerNames),
    bodyLimitBytes: variable('MAX_REQUEST_SIZE_MB', mebibytesAsBytes(0.001, 100), '10'),
    requestTimeoutMs: variable('REQUEST_TIMEOUT_SECONDS', secondsAsMs(0.1, 3600), '60'),
    maxEventLoopDelayMs: variable('MAX_EVENT_LOOP_DELAY_MS', wholeNumber(0, 60_000), '1000'),
    docsEnabled: variable('DOCS_ENABLED', flag, 'true'),
  },
  log: {
    level: variable(
      'LOG_LEVEL',
      oneOf(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'], { warning: 'warn' }),
      'info',
    ),
    format: variable('LOG_FORMAT', oneOf(['json', 'pretty']), 'json'),
    slowRequestMs: variable('SLOW_REQUEST_THRESHOLD_MS', wholeNumber(1, 3_600_000), '3000'),
  },
  auth: {
    required: variable('AUTH_REQUIRED', flag, 'true'),
    bootstrapKeys: variable('API_KEYS', keyList),
    keyEnvironment: variable('API_KEY_ENVIRONMENT', keyEnvironment, 'live'),
    keySecret: variable('API_KEY_SECRET', strongSecret),
    /** Signs list cursors and encrypts keys in stored responses. */
    secretKey: variable('SECRET_KEY', strongSecret),
    failuresPerMinute: variable('AUTH_FAILURES_PER_MINUTE', wholeNumber(1, 1_000_000), '60'),
  },
  rateLimit: {
    enabled: variable('RATE_LIMIT_ENABLED', flag, 'true'),
    perMinute: variable('RATE_LIMIT_PER_MINUTE', wholeNumber(1, 10_000_000), '100'),
    burst: variable('RATE_LIMIT_BURST', wholeNumber(0, 10_000_000), '0'),
    tenantPerMinute: variable('RATE_LIMIT_TENANT_PER_MINUTE', wholeNumber(0, 10_000_000), '0'),
    costs: {
      read: variable('RATE_LIMIT_COST_READ', cost, '1'),
      write: variable('RATE_LIMIT_COST_WRITE', cost, '1'),
      query: variable('RATE_LIMIT_COST_QUERY', cost, '1'),
    },
    shadow: variable('RATE_LIMIT_SHADOW', flag, 'false'),
    expectedReplicas: variable('EXPECTED_REPLICAS', wholeNumber(1, 1000), '1'),
  },
  postgres: {
    url: { ...variable('DATABASE_URL', postgresUrl), required: true as const },
    replicaUrl: variable('DATABASE_URL_REPLICA', optional(postgresUrl)),
    migrationUrl: variable('DATABASE_MIGRATION_URL', optional(postgresUrl)),
    pgbouncer: variable('DATABASE_PGBOUNCER', flag, 'false'),
    poolMax: variable('CONNECTION_POOL_SIZE', wholeNumber(1, 500), '20'),
    poolWaitMs: variable('POOL_WAIT_TIMEOUT_MS', wholeNumber(1, 60_000), '3000'),
    queryTimeoutMs: variable('QUERY_TIMEOUT_SECONDS', secondsAsMs(0.1, 3600), '30'),
    maxRows: variable('QUERY_MAX_ROWS', wholeNumber(1, 10_000_000), '100000'),
  },
  redis: {
    url: variable('REDIS_URL', optional(redisUrl)),
    cacheUrl: variable('REDIS_CACHE_URL', optional(redisUrl)),
    commandTimeoutMs: variable('REDIS_COMMAND_TIMEOUT_MS', wholeNumber(1, 10_000), '150'),
  },
  cache: {
    enabled: variable('CACHE_ENABLED', flag, 'true'),
    ttlSeconds: variable('CACHE_TTL_SECONDS', seconds(0.1, 86_400), '60'),
    maxRows: variable('CACHE_MAX_ROWS', wholeNumber(1, 1_000_000), '10000'),
  },
  idempotency: {
    ttlSeconds: variable('IDEMPOTENCY_TTL_SECONDS', seconds(0.1, 2_592_000), '86400'),
  },
  lifecycle: {
    drainDelayMs: variable('DRAIN_DELAY_SECONDS', secondsAsMs(0, 300), '5'),
    shutdownTimeoutMs: variable('SHUTDOWN_TIMEOUT_SECONDS', secondsAsMs(0.1, 600), '30'),
  },
  /** Named by OpenTelemetry. The SDK reads its other variables itself, once there is an endpoint. */
  tracing: {
    endpoint: variable('OTEL_EXPORTER_OTLP_ENDPOINT', optional(collectorUrl)),
    tracesEndpoint: variable('OTEL_EXPORTER_OTLP_TRACES_ENDPOINT', optional(collectorUrl)),
    protocol: variable('OTEL_EXPORTER_OTLP_PROTOCOL', oneOf(['http/protobuf', 'http/json']), 'http/protobuf'),
    headers: variable('OTEL_EXPORTER_OTLP_HEADERS', headerList),
    exporter: variable('OTEL_TRACES_EXPORTER', oneOf(['otlp', 'none']), 'otlp'),
    disabled: variable('OTEL_SDK_DISABLED', flag, 'false'),
  },
};

type ValuesOf<Part> = Part extends Variable<infer T> ? T : { [Key in keyof Part]: ValuesOf<Part[Key]> };

export type Values = ValuesOf<typeof SETTINGS>;

/** Values of which some were refused, and are missing. */
export type PartialValues = { [Section in keyof Values]: Partial<Values[Section]> };

export interface Tree {
  [key: string]: Variable | Tree;
}

export function isVariable(part: Variable | Tree): part is Variable {
  return 'schema' in part;
}

function listVariables(tree: Tree): Variable[] {
  return Object.values(tree).flatMap((part) => (isVariable(part) ? [part] : listVariables(part)));
}

/** Every variable by its name, in the order of .env.example. */
export const VARIABLES = new Map(listVariables(SETTINGS).map((each) => [each.name, each]));
