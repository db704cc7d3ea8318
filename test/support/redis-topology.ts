import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import type { Test } from 'tap';
import { findFreePort } from '../../tools/dev/free-port.ts';
import { startRedis, type RedisServer } from './redis.ts';
import { until } from './until.ts';

/** What the sentinels call the primary. */
const NAME = 'primary';
const SLOTS = 16_384;
/** The nodes of a cluster talk to each other on a port that is so much higher. */
const BUS_OFFSET = 10_000;

export interface SentinelSetup {
  /** `redis+sentinel://…`, without a database. */
  url: string;
  primary: RedisServer;
  replica: RedisServer;
  sentinels: RedisServer[];
}

/** Three sentinels, a primary and its replica; undefined as with redisUrl. */
export async function startSentinels(t: Test): Promise<SentinelSetup | undefined> {
  const primary = await startRedis(t, { asProcess: true, args: ['--repl-diskless-sync-delay', '0'] });
  const replica = primary && (await startReplica(t, primary));
  if (!replica) return undefined;

  const folder = makeFolder(t);
  const ports = await findFreePorts(3);
  const idOf = (port: number) => createHash('sha1').update(`${folder} ${port}`).digest('hex');
  const sentinels: RedisServer[] = [];
  for (const port of ports) {
    const file = join(folder, `${port}.conf`);
    const others = ports.filter((other) => other !== port);
    // They are told what they would find out about each other in some seconds.
    const lines = [
      `sentinel myid ${idOf(port)}`,
      `sentinel monitor ${NAME} 127.0.0.1 ${primary.port} 2`,
      `sentinel down-after-milliseconds ${NAME} 500`,
      `sentinel failover-timeout ${NAME} 1000`,
      `sentinel known-replica ${NAME} 127.0.0.1 ${replica.port}`,
      ...others.map((other) => `sentinel known-sentinel ${NAME} 127.0.0.1 ${other} ${idOf(other)}`),
    ];
    writeFileSync(file, `${lines.join('\n')}\n`);
    const sentinel = await startRedis(t, { port, args: [file, '--sentinel'] });
    if (sentinel) sentinels.push(sentinel);
  }
  const hosts = ports.map((port) => `127.0.0.1:${port}`).join(',');
  return { url: `redis+sentinel://${hosts}/${NAME}`, primary, replica, sentinels };
}

/** A server that follows another, up to date when it is returned. */
export async function startReplica(t: Test, primary: RedisServer): Promise<RedisServer | undefined> {
  const replica = await startRedis(t, { args: ['--replicaof', '127.0.0.1', String(primary.port)] });
  if (replica) await until('the replica is up to date', () => isUpToDate(replica));
  return replica;
}

export interface ClusterSetup {
  /** `redis+cluster://…` */
  url: string;
  /** Three primaries, which share the slots among them, and what was added. */
  nodes: RedisServer[];
  /** The primary that has a key. */
  primaryOf(key: string): Promise<RedisServer>;
  /** Adds a node that follows one of them. */
  addReplica(primary: RedisServer): Promise<RedisServer>;
}

/** Three primaries and no replica; undefined as with redisUrl. */
export async function startCluster(t: Test): Promise<ClusterSetup | undefined> {
  const folder = makeFolder(t);
  const nodes: RedisServer[] = [];
  for (let index = 0; index < 3; index += 1) {
    const node = await startNode(t, folder);
    if (!node) return undefined;
    nodes.push(node);
    const first = Math.floor((SLOTS * index) / 3);
    const slots = Array.from(
      { length: Math.floor((SLOTS * (index + 1)) / 3) - first },
      (_, slot) => first + slot,
    );
    await ask(node, (client) => client.cluster('ADDSLOTS', ...slots));
    if (index > 0) await meet(nodes, node);
  }
  await until('every node knows that the cluster is whole', () => allSay(nodes, 'INFO', /cluster_state:ok/));

  return {
    url: `redis+cluster://${nodes.map(({ port }) => `127.0.0.1:${port}`).join(',')}`,
    nodes,

    async primaryOf(key) {
      const tries = nodes.map((node) => ask(node, (client) => client.exists(key)).then(() => node));
      return Promise.any(tries);
    },

    async addReplica(primary) {
      const replica = await startNode(t, folder);
      if (!replica) throw new Error('the others were started');
      await meet(nodes, replica);
      const id = await ask(primary, (client) => client.cluster('MYID'));
      await until('it knows its primary', () => allSay([replica], 'NODES', new RegExp(id)));
      await ask(replica, (client) => client.cluster('REPLICATE', id));
      await until('it is up to date', () => isUpToDate(replica));
      const follower = new RegExp(`:${replica.port}@.* slave ${id}`);
      await until('all know of it', () => allSay(nodes, 'NODES', follower));
      await until('it may take over', () => allSay([replica], 'INFO', /cluster_state:ok/));
      nodes.push(replica);
      return replica;
    },
  };
}

/** One command, or a few, on a connection of their own. */
export async function ask<T>({ port }: RedisServer, work: (client: Redis) => Promise<T>): Promise<T> {
  const client = new Redis(port, '127.0.0.1', { retryStrategy: null, commandTimeout: 5000 });
  client.on('error', () => undefined);
  try {
    return await work(client);
  } finally {
    client.disconnect();
  }
}

async function isUpToDate(replica: RedisServer): Promise<boolean> {
  return (await ask(replica, (client) => client.info('replication'))).includes('master_link_status:up');
}

async function startNode(t: Test, folder: string): Promise<RedisServer | undefined> {
  const [port = 0] = await findFreePorts(1);
  const files = ['--dir', folder, '--cluster-config-file', `${port}.conf`];
  const args = ['--cluster-enabled', 'yes', '--cluster-node-timeout', '2000', ...files];
  return startRedis(t, { asProcess: true, port, args: [...args, '--repl-diskless-sync-delay', '0'] });
}

async function meet([first]: RedisServer[], node: RedisServer): Promise<void> {
  if (first) await ask(first, (client) => client.cluster('MEET', '127.0.0.1', node.port));
}

export async function allSay(
  nodes: RedisServer[],
  about: 'INFO' | 'NODES',
  pattern: RegExp,
): Promise<boolean> {
  const replies = await Promise.all(
    nodes.map((node) => ask(node, (client) => client.call('CLUSTER', about))),
  );
  return replies.every((reply) => pattern.test(String(reply)));
}

/** All different, and each one's bus port free as well. */
export async function findFreePorts(count: number): Promise<number[]> {
  const ports = new Set<number>();
  while (ports.size < count) {
    const port = await findFreePort();
    if (await isFree(port + BUS_OFFSET)) ports.add(port);
  }
  return [...ports];
}

function isFree(port: number): Promise<boolean> {
  if (port > 65_535) return Promise.resolve(false);
  return new Promise((resolve) => {
    const server = createServer().once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

function makeFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-redis-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }));
  return folder;
}
