import type { Redis } from 'ioredis';
import type { Logger } from 'pino';
import { explainFailure } from './problems.ts';

export interface ChannelListener {
  onMessage(message: string): void;
  /**
   * Messages may have been missed up to this moment. Called when the channel is lost, and when it is subscribed
   * (also for the first time).
   */
  onGap(): void;
}

export interface Subscription {
  /**
   * True while every message arrives. Turns false within about two seconds of a silent death, and of a failover
   * that left this connection at a server that is no longer the primary.
   */
  live(): boolean;
}

/** Only a reply within the socket's timeout proves that silence means no messages. */
const HEARTBEAT_MS = 1000;

/**
 * Redis pub/sub that reports when it may have missed something. The first subscription calls `open`. Messages are
 * sent at the primary for `key`: a connection that may not write that key is at the wrong server.
 */
export function createSubscriber(open: () => Redis, key: string, log: Logger) {
  const channels = new Map<string, { listeners: ChannelListener[]; live: boolean; refused: boolean }>();
  let client: Redis | undefined;
  let heartbeat: NodeJS.Timeout | undefined;

  function start(): Redis {
    const opened = open();
    opened.on('ready', subscribeAll);
    opened.on('close', loseAll);
    opened.on('message', (channel: string, message: string) => {
      for (const listener of channels.get(channel)?.listeners ?? []) listener.onMessage(message);
    });
    // The monitor of the connection for commands, to the same server, logs what is wrong.
    opened.on('error', () => undefined);
    heartbeat = setInterval(check, HEARTBEAT_MS).unref();
    return opened;
  }

  function check(): void {
    if (client?.status !== 'ready') return;
    subscribeAll();
    // An error reply is final; if there is no reply, the socket's timeout decides.
    provePrimary(client).catch((error: Error) => {
      if (error.name === 'ReplyError') loseAll();
    });
  }

  /** In the old protocol a connection that subscribes may do no more than ping. */
  function provePrimary(connection: Redis): Promise<unknown> {
    return connection.mode === 'subscriber' ? connection.ping() : connection.del(key);
  }

  function subscribeAll(): void {
    for (const [name, channel] of channels) if (!channel.live) void subscribeTo(name);
  }

  async function subscribeTo(name: string): Promise<void> {
    const channel = channels.get(name);
    if (!channel || client?.status !== 'ready') return;
    try {
      await provePrimary(client);
      await client.subscribe(name);
      if (channel.live || client.status !== 'ready') return;
      Object.assign(channel, { live: true, refused: false });
      for (const listener of channel.listeners) listener.onGap();
    } catch (error) {
      // The next heartbeat tries again, or the connection that is made instead of one to the wrong server.
      const { name: kind, message: reason } = error as Error;
      if (channel.refused || kind !== 'ReplyError' || /^(MOVED|READONLY|CLUSTERDOWN)/.test(reason)) return;
      log.warn({ channel: name, reason, mend: explainFailure(error) }, 'Redis refuses a subscription');
      channel.refused = true;
    }
  }

  function loseAll(): void {
    for (const channel of channels.values()) {
      if (!channel.live) continue;
      channel.live = false;
      for (const listener of channel.listeners) listener.onGap();
    }
  }

  return {
    subscribe(name: string, listener: ChannelListener): Subscription {
      const channel = channels.get(name) ?? { listeners: [], live: false, refused: false };
      channel.listeners.push(listener);
      channels.set(name, channel);
      client ??= start();
      void subscribeTo(name);
      return { live: () => channel.live && client?.status === 'ready' };
    },

    /** At once, because the primary may be another now. */
    check,

    close(): void {
      clearInterval(heartbeat);
      client?.disconnect();
    },
  };
}
