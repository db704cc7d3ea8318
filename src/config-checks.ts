import { isLoopback } from './config-hosts.ts';
import { showGiven, type Env, type Problem } from './config-reader.ts';
import type { Values, VariableName } from './config-variables.ts';
import { parseToken } from './stores/api-key-token.ts';

/**
 * Rules that hold between variables. Values that were refused on their own are missing here, and
 * the rules that need them are skipped: a comparison with undefined is false.
 */
export function findConflicts(values: Partial<Values>, env: Env): Problem[] {
  const problems: Problem[] = [];
  const refuse = (name: string, reason: string): void => {
    problems.push({ variable: name, reason, given: showGiven(env, name) });
  };

  checkExposure(values, refuse);
  checkKeys(values, refuse);
  checkTimeoutLadder(values, refuse);
  if (Number(values.RATE_LIMIT_BURST) > Number(values.RATE_LIMIT_PER_MINUTE)) {
    refuse(
      'RATE_LIMIT_BURST',
      `is more than RATE_LIMIT_PER_MINUTE, which is ${values.RATE_LIMIT_PER_MINUTE}`,
    );
  }
  const usesRedis = Boolean(values.REDIS_URL || values.REDIS_CACHE_URL);
  if (usesRedis && !env['EXPECTED_REPLICAS']) {
    refuse(
      'EXPECTED_REPLICAS',
      'is needed with REDIS_URL: while Redis is away each process admits its share of the limits, and several ' +
        'that take themselves for the only one would admit the limit each; set how many processes there are at most',
    );
  }
  if (values.DATABASE_URL_REPLICA && Number(values.EXPECTED_REPLICAS) > 1 && values.REDIS_URL === '') {
    refuse(
      'REDIS_URL',
      'is needed with DATABASE_URL_REPLICA and EXPECTED_REPLICAS above 1: processes tell each other by Redis ' +
        'which tenant wrote just now, so that its next read goes to the primary',
    );
  }
  if (env['NODE_TLS_REJECT_UNAUTHORIZED'] === '0') {
    refuse('NODE_TLS_REJECT_UNAUTHORIZED', 'switches off the verification of every TLS connection; unset it');
  }
  return problems;
}

type RefuseVariable = (name: VariableName, reason: string) => void;

function checkExposure(values: Partial<Values>, refuse: RefuseVariable): void {
  if (values.AUTH_REQUIRED === false && values.API_HOST !== undefined && !isLoopback(values.API_HOST)) {
    refuse('AUTH_REQUIRED', `is false while API_HOST is ${values.API_HOST}, which is no loopback address`);
  }
  if (values.ENFORCE_HTTPS && values.TRUSTED_PROXIES?.length === 0) {
    refuse(
      'TRUSTED_PROXIES',
      'is needed with ENFORCE_HTTPS: TLS ends at the proxy, which says whether it was used',
    );
  }
  const { API_PORT: apiPort, METRICS_PORT: metricsPort } = values;
  if (values.METRICS_ENABLED && apiPort !== undefined && apiPort !== 0 && apiPort === metricsPort) {
    refuse('METRICS_PORT', 'is the same as API_PORT');
  }
}

function checkKeys(values: Partial<Values>, refuse: RefuseVariable): void {
  const environment = values.API_KEY_ENVIRONMENT;
  for (const [index, { token }] of (values.API_KEYS ?? []).entries()) {
    if (environment !== undefined && parseToken(token)?.environment !== environment) {
      refuse('API_KEYS', `entry ${index + 1} is not of the API_KEY_ENVIRONMENT ${environment}`);
    }
  }
  if (values.SECRET_KEY && values.SECRET_KEY === values.API_KEY_SECRET) {
    refuse('SECRET_KEY', 'is the same as API_KEY_SECRET; each use needs a secret of its own');
  }
}

/** Each wait must end before the one around it, or the outer one hides which part was slow. */
function checkTimeoutLadder(values: Partial<Values>, refuse: RefuseVariable): void {
  const ladder = [
    { name: 'REDIS_COMMAND_TIMEOUT_MS', ms: values.REDIS_COMMAND_TIMEOUT_MS ?? NaN },
    { name: 'POOL_WAIT_TIMEOUT_MS', ms: values.POOL_WAIT_TIMEOUT_MS ?? NaN },
    { name: 'QUERY_TIMEOUT_SECONDS', ms: (values.QUERY_TIMEOUT_SECONDS ?? NaN) * 1000 },
    { name: 'REQUEST_TIMEOUT_SECONDS', ms: (values.REQUEST_TIMEOUT_SECONDS ?? NaN) * 1000 },
  ] as const;
  for (const [index, inner] of ladder.entries()) {
    const outer = ladder[index + 1];
    if (outer && inner.ms >= outer.ms) {
      refuse(inner.name, `(${inner.ms} ms) must be less than ${outer.name} (${outer.ms} ms)`);
    }
  }
}

/** What is allowed and probably not meant. */
export function findDoubts(values: Partial<Values>): string[] {
  const doubts: string[] = [];
  if (Number(values.EXPECTED_REPLICAS) > 1 && values.REDIS_URL === '') {
    doubts.push(
      'EXPECTED_REPLICAS is above 1 without REDIS_URL: each process holds its share of the rate limits, ' +
        'and a revoked key is refused within 5 s instead of at once',
    );
  }
  if (values.DATABASE_PGBOUNCER && values.DATABASE_MIGRATION_URL === '') {
    doubts.push(
      'DATABASE_PGBOUNCER is true without DATABASE_MIGRATION_URL: migrations hold a session lock, which ' +
        'PgBouncer in transaction mode cannot keep; give them a direct connection',
    );
  }
  return doubts;
}
