import { Redis } from 'ioredis';
import type { Cluster } from 'ioredis';
import { openCluster, openNode } from './cluster.ts';
import { createConnector } from './connector.ts';
import { limitCommands, redisOptions } from './options.ts';
import { createSentinelConnector } from './sentinel.ts';
import type { RedisTarget } from './url.ts';

/** Both have the same commands; the keys of one command must be of one slot. */
export type RedisClient = Redis | Cluster;

export interface RedisConnection {
  client: RedisClient;
  /** False: a command would fail, do not try. */
  ready(): boolean;
  /** Called each time that it becomes ready. */
  onReady(listener: () => void): void;
  /** The servers that answer: one, or the primaries of the cluster. */
  servers(): Redis[];
  /** Why a cluster cannot be used, which ioredis does not tell. */
  cause?(): Error | undefined;
  /** Another connection, to the server that has the key of its commands. */
  openAnother(name: string): Redis;
}

/** Starts to connect, returns at once and goes on trying for ever. Somebody must listen for `error`. */
export function openConnection(target: RedisTarget, commandTimeoutMs: number, name: string): RedisConnection {
  const optionsFor = (connectionName: string) => redisOptions(target, commandTimeoutMs, connectionName);
  if (target.topology === 'cluster') {
    const cluster = openCluster(target, optionsFor(name), commandTimeoutMs);
    const openAnother = (other: string) => openNode(target, optionsFor(other), cluster.client);
    return { ...cluster, openAnother: (other) => limitCommands(openAnother(other), commandTimeoutMs) };
  }
  const Connector = target.topology === 'sentinel' ? createSentinelConnector(target) : createConnector();
  const open = (connectionName: string) =>
    limitCommands(new Redis({ ...optionsFor(connectionName), Connector }), commandTimeoutMs);
  const client = open(name);
  return {
    client,
    ready: () => client.status === 'ready',
    onReady: (listener) => void client.on('ready', listener),
    servers: () => [client],
    openAnother: open,
  };
}
