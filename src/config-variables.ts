import { bindAddress, decimalNumber, flag, matching, oneOf, wholeNumber, type Kind } from './config-kinds.ts';
import { headerNames, originList, proxyList } from './config-network.ts';
import { redisUrl } from './config-redis-url.ts';
import { keyList, strongSecret } from './config-secrets.ts';
import { collectorUrl, headerList, OTLP_EXPORTERS, OTLP_PROTOCOLS } from './config-tracing.ts';
import { postgresUrl } from './config-urls.ts';

/** One environment variable. `default` is text as it would stand in the environment; '' means unset. */
export interface Variable<T = unknown> extends Kind<T> {
  default: string;
  description: string;
  required?: true;
  /** What decides instead in the stack of compose.yaml, which fixes this one. */
  compose?: string;
}

function variable<T>(kind: Kind<T>, preset: string, description: string, compose?: string): Variable<T> {
  return { ...kind, default: preset, description, ...(compose && { compose }) };
}

const http = {
  API_HOST: variable(bindAddress, '0.0.0.0', 'Address on which the API listens.', 'it is 0.0.0.0'),
  API_PORT: variable(
    wholeNumber(0, 65535),
    '8000',
    'Port of the API; 0 takes any free one.',
    'it is 8000, and HTTPS_PORT is what nginx publishes',
  ),
  METRICS_ENABLED: variable(flag, 'true', 'Serve /metrics on METRICS_PORT.'),
  METRICS_HOST: variable(
    bindAddress,
    '127.0.0.1',
    'Address on which METRICS_PORT listens: metrics and status ask for no key.',
    'it is 0.0.0.0, in networks that are not published',
  ),
  METRICS_PORT: variable(
    wholeNumber(0, 65535),
    '9090',
    'Port of the metrics, never published; 0: any free.',
    'it is 9090',
  ),
  TRUSTED_PROXIES: variable(
    proxyList,
    '',
    'Proxies whose X-Forwarded-For and -Proto are believed.',
    'it is the address of nginx, from EDGE_PREFIX',
  ),
  ENFORCE_HTTPS: variable(
    flag,
    'false',
    'Refuse requests that reached the proxy without TLS.',
    'it is true, for nginx ends TLS',
  ),
  CORS_ORIGINS: variable(originList, '', 'Browser origins that may read answers; empty: none.'),
  CORS_ALLOWED_HEADERS: variable(
    headerNames,
    '',
    'Request headers that browser pages may send, beyond those that the service reads.',
  ),
  MAX_REQUEST_SIZE_MB: variable(
    decimalNumber(0.001, 100),
    '10',
    'Largest request body in MiB; the nginx of compose.yaml follows.',
  ),
  REQUEST_TIMEOUT_SECONDS: variable(
    decimalNumber(0.1, 3600),
    '60',
    'Longest time for one request; then it is 504, and a stream that has begun is cut.',
  ),
  MAX_EVENT_LOOP_DELAY_MS: variable(
    wholeNumber(0, 60_000),
    '1000',
    'Delay of the event loop above which requests are shed with 503; 0: never.',
  ),
  DOCS_ENABLED: variable(flag, 'true', 'Serve /docs and /openapi.json.'),
};

const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;

const log = {
  LOG_LEVEL: variable(
    oneOf(LOG_LEVELS, { warning: 'warn' }),
    'info',
    'Least level that is logged, in any case.',
  ),
  LOG_FORMAT: variable(
    oneOf(['json', 'pretty']),
    'json',
    'One JSON object a line, or coloured text for people.',
  ),
  SLOW_REQUEST_THRESHOLD_MS: variable(
    wholeNumber(1, 3_600_000),
    '3000',
    'Requests that take longer are logged as SLOW REQUEST.',
  ),
};

const auth = {
  AUTH_REQUIRED: variable(
    flag,
    'true',
    'Ask for an API key; false only when API_HOST is a loopback address.',
  ),
  API_KEYS: variable(keyList, '', 'First keys, with all scopes; a key without tenant belongs to `default`.'),
  API_KEY_ENVIRONMENT: variable(
    matching(/^[a-z]{2,10}$/, '2 to 10 letters a-z'),
    'live',
    'Part of every key (hp_live_...): keys of another environment are refused.',
  ),
  API_KEY_SECRET: variable(
    strongSecret,
    '',
    'Pepper of the stored key digests; changing it voids every key.',
    'it comes from secrets/api_key_secret',
  ),
  SECRET_KEY: variable(
    strongSecret,
    '',
    'Signs list cursors and encrypts keys in stored responses; the same on every replica.',
    'it comes from secrets/secret_key',
  ),
  AUTH_FAILURES_PER_MINUTE: variable(
    wholeNumber(1, 1_000_000),
    '60',
    'Requests with a bad key that one IP address may send in a minute.',
  ),
};

const rateLimit = {
  RATE_LIMIT_ENABLED: variable(flag, 'true', 'Limit the requests of each key and of each address.'),
  RATE_LIMIT_PER_MINUTE: variable(
    wholeNumber(1, 10_000_000),
    '100',
    'Requests of one key in any 60 seconds, unless the key has a limit of its own.',
  ),
  RATE_LIMIT_BURST: variable(
    wholeNumber(0, 10_000_000),
    '0',
    'Requests of one key in any one second, at most RATE_LIMIT_PER_MINUTE; 0: no such bound.',
  ),
  RATE_LIMIT_TENANT_PER_MINUTE: variable(
    wholeNumber(0, 10_000_000),
    '0',
    'Requests of all keys of a tenant together in any 60 seconds; 0: no such bound.',
  ),
  RATE_LIMIT_COST_READ: variable(wholeNumber(1, 1000), '1', 'What a GET or HEAD counts for.'),
  RATE_LIMIT_COST_WRITE: variable(wholeNumber(1, 1000), '1', 'What any other request counts for.'),
  RATE_LIMIT_COST_QUERY: variable(
    wholeNumber(1, 1000),
    '1',
    'What a request counts for whose route says that it is expensive.',
  ),
  RATE_LIMIT_SHADOW: variable(
    flag,
    'false',
    'Only count, in rate_limit_hits_total, what would be refused: to try a limit before it bites.',
  ),
  EXPECTED_REPLICAS: variable(
    wholeNumber(1, 1000),
    '1',
    'Processes that serve the API; without Redis each holds its share of the limits. Required with Redis.',
  ),
};

const postgres = {
  DATABASE_URL: {
    ...variable(
      postgresUrl,
      '',
      'The database; required.',
      'it is made from secrets/app_password; DATABASE_URL_FILE chooses PgBouncer',
    ),
    required: true as const,
  },
  DATABASE_URL_REPLICA: variable(
    postgresUrl,
    '',
    'Read replica; empty: the primary is read.',
    'DATABASE_URL_REPLICA_FILE chooses the replica of the stack',
  ),
  DATABASE_MIGRATION_URL: variable(
    postgresUrl,
    '',
    'Database login of migrations; empty: DATABASE_URL.',
    'it is made from secrets/migrator_password',
  ),
  DATABASE_PGBOUNCER: variable(flag, 'false', 'DATABASE_URL is a PgBouncer in transaction mode.'),
  CONNECTION_POOL_SIZE: variable(wholeNumber(1, 500), '20', 'Most Postgres connections of one process.'),
  POOL_WAIT_TIMEOUT_MS: variable(
    wholeNumber(1, 60_000),
    '3000',
    'Longest wait for a connection of the pool.',
  ),
  QUERY_TIMEOUT_SECONDS: variable(decimalNumber(0.1, 3600), '30', 'Longest time for one SQL statement.'),
  QUERY_MAX_ROWS: variable(wholeNumber(1, 10_000_000), '100000', 'Most rows that one query may return.'),
};

const redis = {
  REDIS_URL: variable(
    redisUrl,
    '',
    'Redis of limits and cache; empty: each process on its own.',
    'it is made from secrets/redis_password; REDIS_URL_FILE chooses the sentinels',
  ),
  REDIS_CACHE_URL: variable(
    redisUrl,
    '',
    'Another Redis for the cache alone; empty: REDIS_URL.',
    'it is made from secrets/redis_password',
  ),
  REDIS_COMMAND_TIMEOUT_MS: variable(wholeNumber(1, 10_000), '150', 'Longest time for one Redis command.'),
  CACHE_ENABLED: variable(flag, 'true', 'Cache reads.'),
  CACHE_TTL_SECONDS: variable(decimalNumber(0.1, 86_400), '60', 'Time for which a cached read is fresh.'),
  CACHE_MAX_ROWS: variable(wholeNumber(1, 1_000_000), '10000', 'Larger results are not cached.'),
};

const lifecycle = {
  IDEMPOTENCY_TTL_SECONDS: variable(
    decimalNumber(0.1, 2_592_000),
    '86400',
    'Time for which an Idempotency-Key is remembered.',
  ),
  DRAIN_DELAY_SECONDS: variable(
    decimalNumber(0, 300),
    '5',
    'Time between saying "not ready" and no longer listening, for load balancers to notice.',
    'it is 5, which stop_grace_period counts on',
  ),
  SHUTDOWN_TIMEOUT_SECONDS: variable(
    decimalNumber(0.1, 600),
    '30',
    'Longest time for requests in flight at shutdown, after the drain delay.',
    'it is 30, which stop_grace_period counts on',
  ),
};

/** Named by OpenTelemetry. The SDK reads its other variables itself, once there is an endpoint. */
const tracing = {
  OTEL_EXPORTER_OTLP_ENDPOINT: variable(
    collectorUrl,
    '',
    'Collector that gets a span of each request, statement and Redis command by OTLP over HTTP; empty: no ' +
      'tracing. OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER and its _ARG, OTEL_BSP_* and the ' +
      'other variables of the OpenTelemetry tracer and exporter work as described there.',
  ),
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: variable(
    collectorUrl,
    '',
    'The same as a whole URL, path included; wins over the variable above.',
  ),
  OTEL_EXPORTER_OTLP_PROTOCOL: variable(oneOf(OTLP_PROTOCOLS), 'http/protobuf', 'How spans are written.'),
  OTEL_EXPORTER_OTLP_HEADERS: variable(headerList, '', 'Headers for the collector, such as its key.'),
  OTEL_TRACES_EXPORTER: variable(oneOf(OTLP_EXPORTERS), 'otlp', 'none: no tracing in spite of an endpoint.'),
  OTEL_SDK_DISABLED: variable(flag, 'false', 'The same, in another way.'),
};

/** All variables by heading, in the order of .env.example and the README. */
export const VARIABLE_GROUPS: Record<string, Record<string, Variable>> = {
  HTTP: http,
  Logging: log,
  'Authentication and secrets': auth,
  'Rate limits': rateLimit,
  Postgres: postgres,
  'Redis and cache': redis,
  'Idempotency and shutdown': lifecycle,
  Tracing: tracing,
};

export const VARIABLES = {
  ...http,
  ...log,
  ...auth,
  ...rateLimit,
  ...postgres,
  ...redis,
  ...lifecycle,
  ...tracing,
};

export type VariableName = keyof typeof VARIABLES;

export const VARIABLE_NAMES = Object.keys(VARIABLES) as VariableName[];

/** What each variable's text becomes. */
export type Values = {
  [Name in VariableName]: (typeof VARIABLES)[Name] extends Variable<infer Value> ? Value : never;
};

export function isVariableName(name: string): name is VariableName {
  return Object.hasOwn(VARIABLES, name);
}

export function findVariable(name: string): Variable | undefined {
  return isVariableName(name) ? VARIABLES[name] : undefined;
}
