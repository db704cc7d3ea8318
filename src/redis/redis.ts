import type { EventEmitter } from 'node:events';
import type { Result } from 'ioredis';
import type { Logger } from 'pino';
import { inTime } from '../lib/in-time.ts';
import type { Metrics } from '../observability/metrics.ts';
import { openConnection } from './connection.ts';
import { readServerInfo } from './servers.ts';
import { parseRedisUrl } from './url.ts';
import { watchConnection } from './monitor.ts';
import { createSubscriber, type ChannelListener, type Subscription } from './subscriber.ts';

/** What the connection is for; a label in logs and metrics. */
export type RedisRole = 'limits' | 'cache';

export interface RedisSettings {
  /** One server, sentinels or a cluster: see parseRedisUrl. */
  url: string;
  commandTimeoutMs: number;
  role: RedisRole;
}

/** `degraded`: it answers, and takes no writes. */
export type RedisState = 'connected' | 'degraded' | 'disconnected';

export type RedisHandle = ReturnType<typeof openRedis>;

const CLOSE_TIMEOUT_MS = 500;
/** Never holds anything: who may write it is the primary, where messages are sent and heard. */
const MEETING_KEY = 'hp:publish';

/**
 * Starts to connect and returns at once: the service starts without Redis, and the connection is
 * retried for ever. Nothing is ever queued: a command on a connection that is not `ready()` fails at
 * once, and one that is not answered fails after `commandTimeoutMs`. What a person has to mend (a
 * wrong password, a database number that does not exist, an untrusted certificate, a server that is
 * too old) is one log line that says so; until then the handle stays not ready. Throws only for a URL
 * that is none.
 */
export function openRedis(settings: RedisSettings, deps: { log: Logger; metrics: Metrics }) {
  const { url, role, commandTimeoutMs } = settings;
  const log = deps.log.child({ upstream: 'redis', role });
  const target = parseRedisUrl(url, (reason) => {
    throw new Error(`The URL of Redis ${reason}`);
  });
  if (!target) throw new Error('The URL of Redis cannot be read');

  const connection = openConnection(target, commandTimeoutMs, `hardpoint-${role}`);
  const { client, ready, onReady } = connection;
  const watch = watchConnection(connection, target, role, commandTimeoutMs, { log, metrics: deps.metrics });
  const subscriber = createSubscriber(
    () => connection.openAnother(`hardpoint-${role}-subscriber`),
    MEETING_KEY,
    log,
  );
  onReady(subscriber.check);
  (client as EventEmitter).on('refresh', subscriber.check);
  client.defineCommand('publishAtPrimary', { numberOfKeys: 1, lua: PUBLISH });
  client.defineCommand('listenedAtPrimary', { numberOfKeys: 1, lua: LISTENED });

  return {
    /** For commands. Never log its errors whole: they hold the command's arguments. */
    client,
    /** False: a command would fail, do not try. Of a cluster a part may fail while it is true. */
    ready,
    /** As far as the last second knows. */
    state: watch.state,
    /** Called each time that it becomes ready. */
    onReady,

    /** What the server says of itself, or each primary of the cluster. */
    readInfo: () => readServerInfo(connection.servers()),

    /** Listens on a connection of its own, opened by the first call; comes back after every loss. */
    subscribe(channel: string, listener: ChannelListener): Subscription {
      return subscriber.subscribe(channel, listener);
    },

    /**
     * Resolves to the number of connections that Redis delivered it to, which are all that are live();
     * rejects when it did not take the message.
     */
    publish(channel: string, message: string): Promise<number> {
      return client.publishAtPrimary(MEETING_KEY, channel, message);
    },

    /** The channels that begin with `prefix` and that somebody listens to by name; rejects as `publish` does. */
    listened(prefix: string): Promise<string[]> {
      return client.listenedAtPrimary(MEETING_KEY, `${prefix}*`);
    },

    /** Says goodbye when Redis listens; never takes longer than half a second. */
    async close(): Promise<void> {
      watch.stop();
      subscriber.close();
      const goodbye = client.quit().catch(() => undefined);
      await inTime(goodbye, CLOSE_TIMEOUT_MS);
      client.disconnect();
    },
  };
}

/**
 * KEYS the meeting place; ARGV channel, message. PUBLISH alone would be taken by a replica, too, which has
 * listeners of its own, and by any node of a cluster, which tells only the number of its own.
 */
const PUBLISH = `
redis.call('del', KEYS[1])
return redis.call('publish', ARGV[1], ARGV[2])
`;

/** KEYS the meeting place; ARGV pattern of channels. */
const LISTENED = `
redis.call('del', KEYS[1])
return redis.call('pubsub', 'channels', ARGV[1])
`;

declare module 'ioredis' {
  interface RedisCommander<Context> {
    publishAtPrimary(key: string, channel: string, message: string): Result<number, Context>;
    listenedAtPrimary(key: string, pattern: string): Result<string[], Context>;
  }
}
