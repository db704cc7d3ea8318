import { findTypos } from './typos.ts';
import { isLoopback } from './urls.ts';
import type { Env, PartialValues } from './variables.ts';
import { parseToken } from '../auth/token.ts';

/** Why a variable is refused. */
export interface Problem {
  name: string;
  reason: string;
}

/**
 * Rules that hold between variables. Values that were refused on their own are missing here, and
 * the rules that need them are skipped: a comparison with undefined is false.
 */
export function findConflicts(values: PartialValues, env: Env): Problem[] {
  const { http, auth, rateLimit, postgres, redis } = values;
  const problems: Problem[] = [];
  const refuse = (name: string, reason: string) => problems.push({ name, reason });

  if (auth.required === false && http.host !== undefined && !isLoopback(http.host)) {
    refuse('AUTH_REQUIRED', `is false while API_HOST is ${http.host}, which is no loopback address`);
  }
  if (http.enforceHttps && http.trustedProxies?.length === 0) {
    refuse(
      'TRUSTED_PROXIES',
      'is needed with ENFORCE_HTTPS: TLS ends at the proxy, which says whether it was used',
    );
  }
  if (http.metricsEnabled && http.port && http.port === http.metricsPort) {
    refuse('METRICS_PORT', 'is the same as API_PORT');
  }
  const environment = auth.keyEnvironment;
  for (const [index, { token }] of (auth.bootstrapKeys ?? []).entries()) {
    if (environment !== undefined && parseToken(token)?.environment !== environment) {
      refuse('API_KEYS', `entry ${index + 1} is not of the API_KEY_ENVIRONMENT ${environment}`);
    }
  }
  if (auth.secretKey && auth.secretKey === auth.keySecret) {
    refuse('SECRET_KEY', 'is the same as API_KEY_SECRET; each use needs a secret of its own');
  }
  for (const reason of findBrokenSteps(values)) refuse(...reason);
  if (Number(rateLimit.burst) > Number(rateLimit.perMinute)) {
    refuse('RATE_LIMIT_BURST', `is more than RATE_LIMIT_PER_MINUTE, which is ${rateLimit.perMinute}`);
  }
  if ((redis.url ?? redis.cacheUrl) && !env['EXPECTED_REPLICAS']) {
    refuse(
      'EXPECTED_REPLICAS',
      'is needed with REDIS_URL: while Redis is away each process admits its share of the limits, and several ' +
        'that take themselves for the only one would admit the limit each; set how many processes there are at most',
    );
  }
  if (postgres.replicaUrl && isFleetWithoutRedis(values)) {
    refuse(
      'REDIS_URL',
      'is needed with DATABASE_URL_REPLICA and EXPECTED_REPLICAS above 1: processes share by Redis ' +
        'which tenant wrote just now, so that its next read goes to the primary',
    );
  }
  if (env['NODE_TLS_REJECT_UNAUTHORIZED'] === '0') {
    refuse('NODE_TLS_REJECT_UNAUTHORIZED', 'switches off the verification of every TLS connection; unset it');
  }
  return problems;
}

/** Each wait must end before the one around it, or the outer one hides which part was slow. */
function findBrokenSteps({ redis, postgres, http }: PartialValues): [name: string, reason: string][] {
  const ladder = [
    { name: 'REDIS_COMMAND_TIMEOUT_MS', ms: redis.commandTimeoutMs },
    { name: 'POOL_WAIT_TIMEOUT_MS', ms: postgres.poolWaitMs },
    { name: 'QUERY_TIMEOUT_SECONDS', ms: postgres.queryTimeoutMs },
    { name: 'REQUEST_TIMEOUT_SECONDS', ms: http.requestTimeoutMs },
  ];
  return ladder.flatMap(({ name, ms }, index) => {
    const outer = ladder[index + 1];
    if (!outer || !(Number(ms) >= Number(outer.ms))) return [];
    return [[name, `(${ms} ms) must be less than ${outer.name} (${outer.ms} ms)`]];
  });
}

/** What is allowed and probably not meant. */
export function findWarnings(values: PartialValues, env: Env): string[] {
  const warnings: string[] = [];
  if (isFleetWithoutRedis(values)) {
    warnings.push(
      'EXPECTED_REPLICAS is above 1 without REDIS_URL: each process holds its share of the rate limits, ' +
        'and a revoked key is refused within 5 s instead of at once',
    );
  }
  if (values.postgres.pgbouncer && values.postgres.migrationUrl === undefined) {
    warnings.push(
      'DATABASE_PGBOUNCER is true without DATABASE_MIGRATION_URL: migrations hold a session lock, which ' +
        'PgBouncer in transaction mode cannot keep; give them a direct connection',
    );
  }
  return [...warnings, ...findTypos(env)];
}

function isFleetWithoutRedis({ rateLimit, redis }: PartialValues): boolean {
  return Number(rateLimit.expectedReplicas) > 1 && 'url' in redis && redis.url === undefined;
}
