import { AbstractConnector, type RedisOptions } from 'ioredis';
import { connect, Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';

export interface Place {
  host?: string | undefined;
  port?: number | undefined;
}

/**
 * Gets a connection its socket, as the one of ioredis does, which stops listening after the first error: a
 * second one, as TLS may have it, would end the process. Its errors are told to `onFailure`, for those
 * connections of a cluster whose errors ioredis keeps to itself.
 */
export function createConnector(onFailure: (error: Error) => void = () => undefined) {
  return class Connector extends AbstractConnector {
    readonly #options: RedisOptions;

    constructor(options: unknown) {
      const known = options as RedisOptions;
      super(known.disconnectTimeout ?? 0);
      this.#options = known;
    }

    /** Where to connect to; asked each time. */
    async locate(): Promise<Place> {
      return this.#options;
    }

    /** Never rejects, which would end the client for good: a socket that is destroyed makes it try again. */
    override async connect(): Promise<Socket> {
      this.connecting = true;
      try {
        const { host, port } = await this.locate();
        if (!this.connecting) throw new Error('Connection is closed.');
        const { family = 0, tls } = this.#options;
        const place = { host: host ?? '', port: port ?? 0, family };
        this.stream = tls ? connectTls({ ...place, ...tls }) : connect(place);
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
