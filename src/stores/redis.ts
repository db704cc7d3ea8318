import { Redis, type RedisOptions } from 'ioredis';
import type { Logger } from 'pino';
import { setTimeout as delay } from 'node:timers/promises';
import type { Metrics } from '../metrics.ts';
import { watchConnection } from './redis-watch.ts';
import { createSubscriber, type ChannelListener, type Subscription } from './subscriber.ts';

/** What the connection is for; a label in logs and metrics. */
export type RedisRole = 'limits' | 'cache';

export interface RedisSettings {
  /** `redis://` or `rediss://` (the certificate is always verified). */
  url: string;
  commandTimeoutMs: number;
  role: RedisRole;
}

export type RedisHandle = ReturnType<typeof openRedis>;

const CLOSE_TIMEOUT_MS = 500;

/**
 * Starts to connect and returns at once: the service starts without Redis, and the connection is
 * retried for ever. Nothing is ever queued: a command on a connection that is not `ready()` fails at
 * once, and one that is not answered fails after `commandTimeoutMs`. What a person has to mend (a
 * wrong password, a database number that does not exist, an untrusted certificate, a server that is
 * too old) is one log line that says so; until then the handle stays not ready. Throws only for a URL
 * that is none.
 */
export function openRedis(settings: RedisSettings, deps: { log: Logger; metrics: Metrics }) {
  const { role } = settings;
  const log = deps.log.child({ upstream: 'redis', role });
  const client = connect(settings, role);
  const watch = watchConnection(client, role, log, deps.metrics);
  const subscriber = createSubscriber(() => connect(settings, `${role}-subscriber`), log);

  return {
    /** For commands. Never log its errors whole: they hold the command's arguments. */
    client,

    /** False: a command would fail, do not try. */
    ready(): boolean {
      return client.status === 'ready';
    },

    /** Listens on a connection of its own, opened by the first call; comes back after every loss. */
    subscribe(channel: string, listener: ChannelListener): Subscription {
      return subscriber.subscribe(channel, listener);
    },

    /** Resolves to the number of connections that Redis delivered it to; rejects when it did not take the message. */
    publish(channel: string, message: string): Promise<number> {
      return client.publish(channel, message);
    },

    /** Says goodbye when Redis listens; never takes longer than half a second. */
    async close(): Promise<void> {
      watch.stop();
      subscriber.close();
      const goodbye = client.quit().catch(() => undefined);
      await Promise.race([goodbye, delay(CLOSE_TIMEOUT_MS, undefined, { ref: false })]);
      client.disconnect();
    },
  };
}

function connect({ url, commandTimeoutMs }: RedisSettings, name: string): Redis {
  try {
    return new Redis(url, redisOptions(commandTimeoutMs, `hardpoint-${name}`));
  } catch {
    // The error of the parser holds the whole URL, and the URL holds the password.
    throw new Error('The URL of Redis cannot be read: it must look like redis://:PASSWORD@HOST:PORT/DB');
  }
}

/** Fail fast, for the request path: see the fields that differ from the defaults. */
export function redisOptions(commandTimeoutMs: number, connectionName: string) {
  let forcedAtMs = -Infinity;
  return {
    connectionName,
    commandTimeout: commandTimeoutMs,
    connectTimeout: 1000,
    // A server that accepts commands and answers none: the connection is torn down, so that the next
    // request learns it from ready() in no time instead of waiting for its own timeout.
    socketTimeout: Math.max(1000, 2 * commandTimeoutMs),
    disconnectTimeout: 250,
    keepAlive: 10_000,
    enableReadyCheck: true,
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    // A command whose answer got lost may have had its effect: only its caller can judge a repetition.
    autoResendUnfulfilledCommands: false,
    autoResubscribe: false,
    retryStrategy: retryDelayMs,
    // After a failover the old primary lives on as a replica; a new connection finds the new one.
    reconnectOnError: (error: Error) => {
      if (!error.message.includes('READONLY') || performance.now() - forcedAtMs < 1000) return false;
      forcedAtMs = performance.now();
      return true;
    },
  } satisfies RedisOptions;
}

/** 25 ms to 2 s, never gives up; the jitter keeps a fleet from coming back in one instant. */
function retryDelayMs(attempt: number): number {
  const ceilingMs = Math.min(50 * 2 ** (attempt - 1), 2000);
  return ceilingMs / 2 + (Math.random() * ceilingMs) / 2;
}
