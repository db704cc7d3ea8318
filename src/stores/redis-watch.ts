import type { EventEmitter } from 'node:events';
import type { Logger } from 'pino';
import type { Metrics } from '../metrics.ts';
import { createIntervalWarning } from './log-interval.ts';
import type { RedisConnection } from './redis-connection.ts';
import { explainFailure } from './redis-problems.ts';
import { createServerCheck } from './redis-servers.ts';
import type { RedisTarget } from './redis-url.ts';
import type { RedisRole } from './redis.ts';

const REPEAT_AFTER_MS = 60_000;
/** Of the lines that say that it is ready, in REPEAT_AFTER_MS. */
const COMINGS_MAX = 5;
/** What ioredis says of a connection whose own error was told before, or went elsewhere. */
const SAYS_NOTHING = /^(Failed to refresh slots cache|Connection is closed)/;

/**
 * Keeps `redis_up` true to the state and tells each change of state, each new reason that a person can
 * mend, and once a minute that it lasts: an outage is a line a minute, not one for every attempt.
 */
export function watchConnection(
  connection: RedisConnection,
  target: RedisTarget,
  role: RedisRole,
  { log, metrics }: { log: Logger; metrics: Metrics },
): { stop(): void } {
  const client: EventEmitter = connection.client;
  const warnOfNode = createIntervalWarning(log);
  const checkServers = createServerCheck(role, target.topology, log);
  let stopped = false;
  metrics.redisConfigured.set({ role }, 1);
  let told = { reason: '', atMs: -Infinity };
  let comings: number[] = [];

  connection.onReady(() => {
    metrics.redisUp.set({ role }, 1);
    void checkServers(connection.servers());
    comings = [...comings.filter((atMs) => performance.now() - atMs < REPEAT_AFTER_MS), performance.now()];
    if (comings.length > COMINGS_MAX) return;
    told = { reason: '', atMs: -Infinity };
    log.info('Redis is ready');
  });

  client.on('close', () => {
    metrics.redisUp.set({ role }, 0);
    if (stopped) return;
    tell(connection.cause?.() ?? new Error('the connection was closed or refused'));
  });

  // Without this listener ioredis prints every error, unstructured, to stderr.
  client.on('error', (error: Error) => {
    if (stopped) return;
    if (!SAYS_NOTHING.test(error.message)) tell(error);
    // ioredis goes on with database 0 when the one asked for does not exist: somebody else's data.
    if (error.message.includes('DB index is out of range')) connection.client.disconnect(true);
  });

  client.on('node error', (error: Error, node: string) => {
    if (stopped || SAYS_NOTHING.test(error.message)) return;
    const { reason, mend } = describe(error);
    if (connection.ready()) warnOfNode({ node, reason, mend }, 'A node of the Redis cluster cannot be used');
  });

  function tell(error: Error): void {
    const { reason, mend } = describe(error);
    const repeated = reason === told.reason || (told.reason !== '' && mend === undefined);
    if (repeated && performance.now() - told.atMs < REPEAT_AFTER_MS) return;
    told = { reason, atMs: performance.now() };
    log.warn({ reason, mend }, 'Redis cannot be used, going on without it');
  }

  function describe(error: Error) {
    const secrets = [target.password, target.sentinel.password].filter((secret) => secret !== '');
    const text = error.message || String((error as NodeJS.ErrnoException).code);
    const reason = secrets.reduce((shown, secret) => shown.replaceAll(secret, '***'), text);
    return { reason, mend: explainFailure(error) };
  }

  return {
    stop() {
      stopped = true;
    },
  };
}
