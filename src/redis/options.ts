import type { Redis, RedisOptions } from 'ioredis';
import type { RedisTarget } from './url.ts';

const CONNECT_TIMEOUT_MS = 1000;

/** Of one connection, whatever it leads to: fail fast, for the request path. */
export function redisOptions(target: RedisTarget, commandTimeoutMs: number, connectionName: string) {
  const { hosts, database, username, password, family, tls } = target;
  let forcedAtMs = -Infinity;
  return {
    connectionName,
    ...hosts[0],
    db: database,
    username,
    password,
    family,
    ...(tls && { tls: {} }),
    // For its first commands, until `limitCommands` takes over.
    commandTimeout: CONNECT_TIMEOUT_MS,
    connectTimeout: CONNECT_TIMEOUT_MS,
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

/**
 * While it connects a connection has more time: a process that starts does not look at it for a while. From
 * then on commands have theirs.
 */
export function limitCommands(client: Redis, commandTimeoutMs: number): Redis {
  client.on('ready', () => (client.options.commandTimeout = commandTimeoutMs));
  client.on('close', () => (client.options.commandTimeout = CONNECT_TIMEOUT_MS));
  return client;
}

/** 25 ms to 1 s, never gives up; the jitter keeps a fleet from coming back in one instant. */
export function retryDelayMs(attempt: number): number {
  const ceilingMs = Math.min(50 * 2 ** (attempt - 1), 1000);
  return ceilingMs / 2 + (Math.random() * ceilingMs) / 2;
}
