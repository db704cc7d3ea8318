import { AbstractConnector, type Cluster, type Redis, type RedisOptions } from 'ioredis';
import { connect, Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import type { RedisTarget } from './url.ts';

/** Both have the same commands; the keys of one command must be of one slot. */
export type RedisClient = Redis | Cluster;

/** A client of one topology. It starts to connect at once and never gives up. */
export interface RedisConnection {
  client: RedisClient;
  /** False: a command would fail. */
  ready(): boolean;
  onReady(listener: () => void): void;
  /** One server, or the primaries of the cluster. */
  servers(): Redis[];
  /** Why a cluster cannot be used. ioredis does not report it. */
  cause?(): Error | undefined;
  /** Another connection, to the server that has the key of its commands. */
  openAnother(name: string): Redis;
}

/** A Lua script as a function. ioredis sends its text once, then its digest. */
export function defineScript<Reply>(
  client: RedisClient,
  { name, keys, lua }: { name: string; keys: number; lua: string },
): (...args: (string | number)[]) => Promise<Reply> {
  client.defineCommand(name, { numberOfKeys: keys, lua });
  const commands = client as unknown as Record<string, (...args: (string | number)[]) => Promise<Reply>>;
  return async (...args) => commands[name]?.(...args) as Promise<Reply>;
}

export interface Address {
  host: string;
  port: number;
}

const CONNECT_TIMEOUT_MS = 1000;

/** For each connection of any topology: fail fast, for the request path. */
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
    // Of its first commands: see `limitCommands`.
    commandTimeout: CONNECT_TIMEOUT_MS,
    connectTimeout: CONNECT_TIMEOUT_MS,
    // Ends the connection to a server that accepts commands and sends nothing.
    socketTimeout: Math.max(1000, 2 * commandTimeoutMs),
    disconnectTimeout: 250,
    keepAlive: 10_000,
    enableReadyCheck: true,
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    // A command whose reply got lost may have had its effect: only its caller can decide to repeat it.
    autoResendUnfulfilledCommands: false,
    autoResubscribe: false,
    // 25 ms to 1 s, for ever; the jitter keeps a fleet from coming back in one instant.
    retryStrategy: (attempt: number) => Math.min(50 * 2 ** (attempt - 1), 1000) * (0.5 + Math.random() / 2),
    // After a failover the old primary lives on as a replica; a new connection finds the new one.
    reconnectOnError: (error: Error) => {
      if (!error.message.includes('READONLY') || performance.now() - forcedAtMs < 1000) return false;
      forcedAtMs = performance.now();
      return true;
    },
  } satisfies RedisOptions;
}

/** A connection that is being made has more time than a command: a starting process is busy for a while. */
export function limitCommands(client: Redis, commandTimeoutMs: number): Redis {
  client.on('ready', () => (client.options.commandTimeout = commandTimeoutMs));
  client.on('close', () => (client.options.commandTimeout = CONNECT_TIMEOUT_MS));
  return client;
}

/**
 * Opens the socket of a connection. The connectors of ioredis stop listening after the first error of a socket,
 * so a second one would end the process. `onFailure` gets the errors that ioredis does not report.
 */
export function createConnector(onFailure: (error: Error) => void = () => undefined) {
  return class Connector extends AbstractConnector {
    readonly #options: RedisOptions;

    constructor(options: unknown) {
      const known = options as RedisOptions;
      super(known.disconnectTimeout ?? 0);
      this.#options = known;
    }

    /** Called for each new connection. */
    async locate(): Promise<Address> {
      const { host = '', port = 0 } = this.#options;
      return { host, port };
    }

    /** Never rejects, which would end the client for good: a socket that is destroyed makes it try again. */
    override async connect(): Promise<Socket> {
      this.connecting = true;
      try {
        const located = await this.locate();
        if (!this.connecting) throw new Error('Connection is closed.');
        const { family = 0, tls } = this.#options;
        const address = { ...located, family };
        this.stream = tls ? connectTls({ ...address, ...tls }) : connect(address);
        this.stream.on('error', (error) => this.#fail(error));
      } catch (error) {
        this.#fail(error as Error);
        this.stream = new Socket().destroy();
      }
      return this.stream;
    }

    #fail(error: Error): void {
      this.firstError = error;
      onFailure(error);
    }
  };
}
