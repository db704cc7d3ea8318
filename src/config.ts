import { findConflicts, findDoubts } from './config-checks.ts';
import {
  describeProblem,
  isComplete,
  readVariable,
  readVariables,
  type Env,
  type Problem,
} from './config-reader.ts';
import type { BootstrapKey } from './config-secrets.ts';
import { findTypos } from './config-typos.ts';
import { toTracingConfig, type TracingConfig } from './config-tracing.ts';
import { VARIABLES, type Values } from './config-variables.ts';

/**
 * Reads and checks the whole configuration. Pure, except that it reads the files of NAME_FILE.
 * The result is frozen; warnings are for the log. Throws a ConfigError that tells every problem.
 */
export function loadConfig(env: Env): { config: Config; warnings: string[] } {
  const { values, problems } = readVariables(env);
  problems.push(...findConflicts(values, env));
  const warnings = [...findDoubts(values), ...findTypos(env)];
  if (problems.length > 0 || !isComplete(values)) throw new ConfigError(problems, warnings);
  return { config: deepFreeze(toConfig(values)), warnings };
}

/**
 * The database to migrate, read as the service reads it. Apart from loadConfig, because a migration job holds the
 * secret of the database and no other. Throws an Error of one line.
 */
export function loadMigrationUrl(env: Env): string {
  for (const name of ['DATABASE_MIGRATION_URL', 'DATABASE_URL'] as const) {
    if (!env[name] && !env[`${name}_FILE`]) continue;
    const { value, problem } = readVariable(env, name);
    if (problem) throw new Error(`${name} ${problem.reason}; allowed: ${VARIABLES[name].allowed}`);
    if (value !== '') return value;
  }
  throw new Error('Neither DATABASE_MIGRATION_URL nor DATABASE_URL is set.');
}

/** Says in its message everything that is wrong, and shows no secret. */
export class ConfigError extends Error {
  constructor(problems: Problem[], warnings: string[]) {
    const count = problems.length === 1 ? '1 problem' : `${problems.length} problems`;
    const noted = warnings.map((warning) => `Also noted: ${warning}`);
    super([`Bad configuration: ${count}`, ...problems.map(describeProblem), ...noted].join('\n\n'));
    this.name = 'ConfigError';
  }
}

export interface Config {
  http: {
    host: string;
    port: number;
    metricsEnabled: boolean;
    metricsHost: string;
    metricsPort: number;
    trustedProxies: string[];
    enforceHttps: boolean;
    corsOrigins: string[];
    corsAllowedHeaders: string[];
    bodyLimitBytes: number;
    requestTimeoutMs: number;
    docsEnabled: boolean;
    maxEventLoopDelayMs: number;
  };
  log: { level: string; format: 'json' | 'pretty'; slowRequestMs: number };
  auth: {
    required: boolean;
    bootstrapKeys: BootstrapKey[];
    keySecret: string;
    keyEnvironment: string;
    failuresPerMinute: number;
  };
  /** '' when unset; signs list cursors. */
  secretKey: string;
  rateLimit: {
    enabled: boolean;
    perMinute: number;
    burst: number;
    tenantPerMinute: number;
    costs: { read: number; write: number; query: number };
    shadow: boolean;
    expectedReplicas: number;
  };
  postgres: {
    url: string;
    replicaUrl?: string;
    migrationUrl: string;
    poolMax: number;
    poolWaitMs: number;
    queryTimeoutMs: number;
    pgbouncer: boolean;
  };
  query: { maxRows: number };
  /** `cacheUrl` is `url` unless the cache has a Redis of its own. */
  redis: { url?: string; cacheUrl?: string; commandTimeoutMs: number };
  cache: { enabled: boolean; ttlSeconds: number; maxRows: number };
  idempotency: { ttlSeconds: number };
  lifecycle: { drainDelayMs: number; shutdownTimeoutMs: number };
  tracing?: TracingConfig;
}

function toConfig(values: Values): Config {
  const tracing = toTracingConfig(values);
  const cacheUrl = values.REDIS_CACHE_URL || values.REDIS_URL;
  return {
    http: {
      host: values.API_HOST,
      port: values.API_PORT,
      metricsEnabled: values.METRICS_ENABLED,
      metricsHost: values.METRICS_HOST,
      metricsPort: values.METRICS_PORT,
      trustedProxies: values.TRUSTED_PROXIES,
      enforceHttps: values.ENFORCE_HTTPS,
      corsOrigins: values.CORS_ORIGINS,
      corsAllowedHeaders: values.CORS_ALLOWED_HEADERS,
      bodyLimitBytes: Math.round(values.MAX_REQUEST_SIZE_MB * 1024 * 1024),
      requestTimeoutMs: toMs(values.REQUEST_TIMEOUT_SECONDS),
      docsEnabled: values.DOCS_ENABLED,
      maxEventLoopDelayMs: values.MAX_EVENT_LOOP_DELAY_MS,
    },
    log: {
      level: values.LOG_LEVEL,
      format: values.LOG_FORMAT,
      slowRequestMs: values.SLOW_REQUEST_THRESHOLD_MS,
    },
    auth: {
      required: values.AUTH_REQUIRED,
      bootstrapKeys: values.API_KEYS,
      keySecret: values.API_KEY_SECRET,
      keyEnvironment: values.API_KEY_ENVIRONMENT,
      failuresPerMinute: values.AUTH_FAILURES_PER_MINUTE,
    },
    secretKey: values.SECRET_KEY,
    rateLimit: {
      enabled: values.RATE_LIMIT_ENABLED,
      perMinute: values.RATE_LIMIT_PER_MINUTE,
      burst: values.RATE_LIMIT_BURST,
      tenantPerMinute: values.RATE_LIMIT_TENANT_PER_MINUTE,
      costs: {
        read: values.RATE_LIMIT_COST_READ,
        write: values.RATE_LIMIT_COST_WRITE,
        query: values.RATE_LIMIT_COST_QUERY,
      },
      shadow: values.RATE_LIMIT_SHADOW,
      expectedReplicas: values.EXPECTED_REPLICAS,
    },
    postgres: {
      url: values.DATABASE_URL,
      ...(values.DATABASE_URL_REPLICA && { replicaUrl: values.DATABASE_URL_REPLICA }),
      migrationUrl: values.DATABASE_MIGRATION_URL || values.DATABASE_URL,
      poolMax: values.CONNECTION_POOL_SIZE,
      poolWaitMs: values.POOL_WAIT_TIMEOUT_MS,
      queryTimeoutMs: toMs(values.QUERY_TIMEOUT_SECONDS),
      pgbouncer: values.DATABASE_PGBOUNCER,
    },
    query: { maxRows: values.QUERY_MAX_ROWS },
    redis: {
      ...(values.REDIS_URL && { url: values.REDIS_URL }),
      ...(cacheUrl && { cacheUrl }),
      commandTimeoutMs: values.REDIS_COMMAND_TIMEOUT_MS,
    },
    cache: {
      enabled: values.CACHE_ENABLED,
      ttlSeconds: values.CACHE_TTL_SECONDS,
      maxRows: values.CACHE_MAX_ROWS,
    },
    idempotency: { ttlSeconds: values.IDEMPOTENCY_TTL_SECONDS },
    lifecycle: {
      drainDelayMs: toMs(values.DRAIN_DELAY_SECONDS),
      shutdownTimeoutMs: toMs(values.SHUTDOWN_TIMEOUT_SECONDS),
    },
    ...(tracing && { tracing }),
  };
}

function toMs(seconds: number): number {
  return Math.round(seconds * 1000);
}

function deepFreeze<T extends object>(value: T): T {
  for (const part of Object.values(value) as unknown[]) {
    if (part instanceof Object) deepFreeze(part);
  }
  return Object.freeze(value);
}
