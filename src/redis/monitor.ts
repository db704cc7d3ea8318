import type { EventEmitter } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import type { Logger } from 'pino';
import type { Metrics } from '../observability/metrics.ts';
import { createIntervalWarning } from '../lib/log-interval.ts';
import { sleptSince } from '../lib/retry-delay.ts';
import type { RedisConnection } from './connection.ts';
import { explainFailure, REFUSES_WRITES } from './problems.ts';
import { createServerCheck } from './servers.ts';
import type { RedisTarget } from './url.ts';
import type { RedisRole, RedisState } from './redis.ts';

const REPEAT_AFTER_MS = 60_000;
/** Whether it takes writes is asked by whoever wants to know, at most so often. */
const PROBE_AFTER_MS = 1_000;
/** Never left behind: it ends by itself. */
const PROBE_KEY = 'hp:probe';
/** Between two pings of a server that does not answer. */
const PING_AGAIN_MS = 50;
/** What ioredis says of a connection whose own error was told before, or went elsewhere. */
const SAYS_NOTHING = /^(Failed to refresh slots cache|Connection is closed)/;

/**
 * Keeps `redis_up` true to the state, and tells a loss, and each reason that a person can mend, at most once
 * a minute: neither an outage nor a connection that comes and goes fills the log.
 */
export function watchConnection(
  connection: RedisConnection,
  target: RedisTarget,
  role: RedisRole,
  commandTimeoutMs: number,
  { log, metrics }: { log: Logger; metrics: Metrics },
): { stop(): void; state(): RedisState } {
  const client: EventEmitter = connection.client;
  const warnOfNode = createIntervalWarning(log);
  const checkServers = createServerCheck(role, target.topology, log);
  let stopped = false;
  metrics.redisConfigured.set({ role }, 1);
  /** When each way to mend it was told last; '' where there is none. */
  const toldAt = new Map<string, number>();
  let readyBefore = false;
  let lossTold = true;
  let probedAt = -Infinity;
  let refusesWrites = false;
  let [pinging, silent] = [false, false];
  if (connection.client instanceof Redis) watchAnswers(connection.client);

  connection.onReady(() => {
    metrics.redisUp.set({ role }, 1);
    readyBefore = true;
    void checkServers(connection.servers());
    if (lossTold) log.info('Redis is ready');
    lossTold = false;
  });

  client.on('close', () => {
    silent = false;
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

  function tell(error: Error, message = 'Redis cannot be used, going on without it'): void {
    const { reason, mend } = describe(error);
    const now = performance.now();
    const isTold = (cause: string) => now - (toldAt.get(cause) ?? -Infinity) < REPEAT_AFTER_MS;
    // What a person cannot mend follows from what was told, as far as one knows.
    if (mend === undefined ? [...toldAt.keys()].some(isTold) : isTold(mend)) return;
    toldAt.set(mend ?? '', now);
    lossTold = true;
    log.warn({ reason, mend }, message);
  }

  /**
   * A command that got no answer in time may have been slow itself. When a ping gets none either, the server is
   * silent, and from then on pings alone wait for it: other commands fail at once. A cluster is left out, of which
   * one node is silent and the others are not.
   */
  function watchAnswers(redis: Redis): void {
    const send = redis.sendCommand.bind(redis);
    redis.sendCommand = (command, stream) => {
      if (silent && command.name !== 'ping') {
        command.reject(new Error('no answer within the timeout of a ping'));
        return command.promise;
      }
      const answer = send(command, stream) as Promise<unknown>;
      answer.catch(({ message }: Error) => {
        if (message === 'Command timed out' && redis.status === 'ready') void pingUntilAnswer(redis);
      });
      return answer;
    };
  }

  async function pingUntilAnswer(redis: Redis): Promise<void> {
    if (pinging) return;
    pinging = true;
    for (;;) {
      const from = performance.now();
      const answered = await redis.ping().then(...ANSWERED);
      // A connection that is made anew is found out anew.
      if (answered || redis.status !== 'ready') break;
      // A timeout proves nothing when this process was asleep.
      if (!sleptSince(from, commandTimeoutMs)) silent = true;
      if (silent) metrics.redisUp.set({ role }, 0);
      await sleep(PING_AGAIN_MS, undefined, { ref: false });
    }
    pinging = false;
    if (silent) metrics.redisUp.set({ role }, 1);
    silent = false;
  }

  /** A server that is full, cannot save or is a replica answers, and takes nothing. */
  async function probe(): Promise<void> {
    probedAt = performance.now();
    try {
      await connection.client.set(PROBE_KEY, '', 'PX', 1);
      refusesWrites = false;
    } catch (error) {
      refusesWrites = REFUSES_WRITES.test((error as Error).message);
      if (refusesWrites) tell(error as Error, 'Redis takes no writes, going on without it');
    }
  }

  function describe(error: Error) {
    const secrets = [target.password, target.sentinel.password].filter((secret) => secret !== '');
    const text = error.message || String((error as NodeJS.ErrnoException).code);
    const reason = secrets.reduce((shown, secret) => shown.replaceAll(secret, '***'), text);
    // Once it was ready, a reset says nothing of how the URL is written.
    const mend = readyBefore && /ECONNRESET|EPIPE/.test(`${(error as NodeJS.ErrnoException).code} ${text}`);
    return { reason, mend: mend ? undefined : explainFailure(error) };
  }

  return {
    stop() {
      stopped = true;
    },

    state() {
      if (!connection.ready() || silent) return 'disconnected';
      if (performance.now() - probedAt > PROBE_AFTER_MS) void probe();
      return refusesWrites ? 'degraded' : 'connected';
    },
  };
}

const ANSWERED = [() => true, () => false] as const;
