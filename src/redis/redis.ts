/**
 * Redis: one server, Sentinel or a cluster, behind one client.
 *
 * `url` reads the three forms of REDIS_URL, `connection` opens them, `subscriber` receives what other processes
 * publish. `monitor` writes a heartbeat and so knows whether Redis is ready, late, or takes no writes. There are two
 * roles: limits, which must not be evicted, and cache, which may be.
 *
 * Failures: no command waits longer than REDIS_COMMAND_TIMEOUT_MS. Callers ask `ready()` first and work without Redis
 * while it is false. One cause is one line in the log, at most once a minute, with what to do about it (`problems`).
 */

import type { EventEmitter } from 'node:events';
import { Redis } from 'ioredis';
import type { Logger } from 'pino';
import { withTimeout } from '../lib/timeouts.ts';
import type { Metrics } from '../observability/metrics.ts';
import { openCluster } from './cluster.ts';
import {
  createConnector,
  defineScript,
  limitCommands,
  redisOptions,
  type RedisConnection,
} from './connection.ts';
import { findSharedServer, type RedisRole } from './problems.ts';
import { createSentinelConnector } from './sentinel.ts';
import { parseRedisUrl, type RedisTarget } from './url.ts';
import { watchConnection } from './monitor.ts';
import { createSubscriber } from './subscriber.ts';

export interface RedisSettings {
  /** One server, sentinels or a cluster: see parseRedisUrl. */
  url: string;
  commandTimeoutMs: number;
  role: RedisRole;
}

export type RedisHandle = ReturnType<typeof openRedis>;

const CLOSE_TIMEOUT_MS = 500;
/** Never holds anything. The server that may write it is the primary at which messages are sent and received. */
const PUBLISH_KEY = 'hp:publish';

/**
 * Starts to connect and returns at once: the service starts without Redis, and the connection is retried for ever.
 * Nothing is queued: a command on a connection that is not ready fails at once, any other after `commandTimeoutMs`
 * at the latest. What a person has to fix (a wrong password, an untrusted certificate, a server that is too old) is
 * one log line that says so. Throws only for a URL that is none.
 */
export function openRedis(settings: RedisSettings, deps: { log: Logger; metrics: Metrics }) {
  const { url, role, commandTimeoutMs } = settings;
  const log = deps.log.child({ upstream: 'redis', role });
  const target = parseRedisUrl(url, (reason) => {
    throw new Error(`The URL of Redis ${reason}`);
  });
  if (!target) throw new Error('The URL of Redis cannot be read');

  const open = target.topology === 'cluster' ? openCluster : openServer;
  const connection = open(target, commandTimeoutMs, `hardpoint-${role}`);
  const { client } = connection;
  const monitor = watchConnection(
    connection,
    { target, role, commandTimeoutMs },
    { log, metrics: deps.metrics },
  );
  const subscriber = createSubscriber(
    () => connection.openAnother(`hardpoint-${role}-subscriber`),
    PUBLISH_KEY,
    log,
  );
  monitor.onReady(subscriber.check);
  (client as EventEmitter).on('refresh', subscriber.check);
  const publishAtPrimary = defineScript<number>(client, PUBLISH);
  const channelsAtPrimary = defineScript<string[]>(client, CHANNELS);

  function requireReady(): void {
    if (!monitor.ready()) throw new Error('Redis is not ready');
  }

  return {
    /** For commands. Never log its errors whole: they hold the command's arguments. */
    client,
    /** False: do not try, a command would fail. Of a cluster a part may fail while it is true. */
    ready: monitor.ready,
    /** As the last heartbeat found it. */
    state: monitor.state,
    /** Calls the listener each time that Redis becomes ready. */
    onReady: monitor.onReady,
    /** INFO of the server, or of each primary of the cluster. */
    readInfo: monitor.readInfo,
    /** Subscribes on a connection of its own, opened by the first call, and again after every loss. */
    subscribe: subscriber.subscribe,

    /** Resolves to the number of subscribers, which are all that are live(); rejects if Redis did not take it. */
    async publish(channel: string, message: string): Promise<number> {
      requireReady();
      return publishAtPrimary(PUBLISH_KEY, channel, message);
    },

    /** The channels with this prefix that have subscribers; rejects as `publish` does. */
    async channels(prefix: string): Promise<string[]> {
      requireReady();
      return channelsAtPrimary(PUBLISH_KEY, `${prefix}*`);
    },

    /** Never takes longer than half a second. */
    async close(): Promise<void> {
      monitor.stop();
      subscriber.close();
      const quit = client.quit().catch(() => undefined);
      await withTimeout(quit, CLOSE_TIMEOUT_MS);
      client.disconnect();
    },
  };
}

/** One server, or the primary that the sentinels name. */
function openServer(target: RedisTarget, commandTimeoutMs: number, name: string): RedisConnection {
  const Connector = target.topology === 'sentinel' ? createSentinelConnector(target) : createConnector();
  const open = (connectionName: string) => {
    const options = redisOptions(target, commandTimeoutMs, connectionName);
    return limitCommands(new Redis({ ...options, Connector }), commandTimeoutMs);
  };
  const client = open(name);
  return {
    client,
    ready: () => client.status === 'ready',
    onReady: (listener) => void client.on('ready', listener),
    servers: () => [client],
    openAnother: open,
  };
}

/** For two URLs that differ: warns once if both lead to one server, where one role can starve the other. */
export function warnOfSharedServer(limits: RedisHandle, cache: RedisHandle, log: Logger): void {
  let warned = false;
  const compare = async () => {
    if (warned || !limits.ready() || !cache.ready()) return;
    const mend = findSharedServer(await limits.readInfo(), await cache.readInfo());
    if (mend === undefined || warned) return;
    warned = true;
    log.warn({ upstream: 'redis', mend }, 'Redis is not set up as it should be');
  };
  limits.onReady(() => void compare());
  cache.onReady(() => void compare());
}

/**
 * KEYS the key of the primary; ARGV channel, message. PUBLISH alone would be taken by a replica, too, which has
 * subscribers of its own, and by any node of a cluster, which knows only the number of its own.
 */
const PUBLISH = {
  name: 'publishAtPrimary',
  keys: 1,
  lua: `
redis.call('del', KEYS[1])
return redis.call('publish', ARGV[1], ARGV[2])
`,
};

/** KEYS the key of the primary; ARGV pattern of channels. */
const CHANNELS = {
  name: 'channelsAtPrimary',
  keys: 1,
  lua: `
redis.call('del', KEYS[1])
return redis.call('pubsub', 'channels', ARGV[1])
`,
};
