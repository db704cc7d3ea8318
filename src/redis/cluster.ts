import { Cluster, Redis } from 'ioredis';
import {
  createConnector,
  limitCommands,
  redisOptions,
  type Address,
  type RedisConnection,
} from './connection.ts';
import type { RedisTarget } from './url.ts';

/**
 * A client that fails fast as one of a single server does. ioredis calls it ready when it knows the slots,
 * connects to a primary when the first command for it comes, and fails the next ones until then; here it
 * is ready when its primaries are connected, or cannot be. One primary that is lost fails the commands for
 * its keys and no others.
 */
export function openCluster(target: RedisTarget, commandTimeoutMs: number, name: string): RedisConnection {
  const optionsOf = (connectionName: string) => redisOptions(target, commandTimeoutMs, connectionName);
  const { retryStrategy, enableOfflineQueue, ...nodeOptions } = optionsOf(name);
  const listeners: (() => void)[] = [];
  let connected = false;
  let cause: Error | undefined;

  const client = new Cluster(target.hosts, {
    enableOfflineQueue,
    clusterRetryStrategy: retryStrategy,
    // Names stay names: certificates are for them.
    dnsLookup: (host, done) => done(null, host),
    // A slot that moved is followed; one that nobody serves is not waited for.
    maxRedirections: 4,
    retryDelayOnFailover: 0,
    retryDelayOnClusterDown: 0,
    retryDelayOnTryAgain: 10,
    redisOptions: {
      ...nodeOptions,
      Connector: createConnector((error) => (cause = error)),
      // All commands will fail alike: it is ready again when the cluster says that it is.
      reconnectOnError: (error) => {
        if (!error.message.startsWith('CLUSTERDOWN The cluster') || client.status !== 'ready') return false;
        cause = error;
        client.disconnect(true);
        return false;
      },
    },
  });
  client.on('+node', (node: Redis) => limitCommands(node, commandTimeoutMs));
  client.on('node error', (error: Error) => {
    if (error.message !== 'Connection is closed.') cause = error;
  });
  // The slots are known. Unless something else goes wrong the cluster says now whether all are served.
  client.on('connect', () => (cause = new Error('CLUSTERDOWN The cluster is down')));
  client.on('ready', () => void becomeReady());
  client.on('close', () => (connected = false));
  // A primary that took over, or joined, gets its connection before its commands come.
  client.on('refresh', () => {
    if (client.status === 'ready') void connectPrimaries();
  });

  async function becomeReady(): Promise<void> {
    await connectPrimaries();
    if (client.status !== 'ready' || connected) return;
    connected = true;
    cause = undefined;
    for (const listener of listeners) listener();
  }

  async function connectPrimaries(): Promise<void> {
    const unused = client.nodes('master').filter(({ status }) => status === 'wait');
    await Promise.allSettled(unused.map((node) => node.connect()));
  }

  return {
    client,
    ready: () => connected && client.status === 'ready',
    onReady: (listener) => void listeners.push(listener),
    servers: () => client.nodes('master'),
    cause: () => cause,
    openAnother: (other) => limitCommands(openNode(target, optionsOf(other), client), commandTimeoutMs),
  };
}

/**
 * A connection to one node: the primary for the key of its last command. Another node names that primary, and the
 * connection is made anew to it; otherwise all nodes are tried in turn.
 */
function openNode({ hosts }: RedisTarget, options: ReturnType<typeof redisOptions>, cluster: Cluster): Redis {
  let named: Address | undefined;
  let attempts = 0;
  const client = new Redis({
    ...options,
    Connector: createConnector(),
    reconnectOnError: ({ message }) => {
      const [, host, port] = /^MOVED \d+ (\S+):(\d+)$/.exec(message) ?? [];
      if (host !== undefined) named = { host, port: Number(port) };
      return host !== undefined;
    },
    retryStrategy: (attempt) => {
      const known = [...hosts, ...cluster.nodes().map(({ options: { host, port } }) => ({ host, port }))];
      Object.assign(client.options, named ?? known[attempts++ % known.length]);
      named = undefined;
      return options.retryStrategy(attempt);
    },
  });
  return client;
}
