import type { Redis } from 'ioredis';
import type { Logger } from 'pino';
import { explainFailure } from './problems.ts';

export interface ChannelListener {
  onMessage(message: string): void;
  /**
   * Messages may have been missed up to this moment: forget what they would have changed. Called
   * when the channel is lost and again when it is heard (also for the first time).
   */
  onGap(): void;
}

export interface Subscription {
  /**
   * True while every message arrives; turns false within about two seconds of a silent death, and of a
   * failover that left this connection at a server that is primary no more.
   */
  live(): boolean;
}

/** An answer within the socket's timeout is the only proof that silence means no messages. */
const HEARTBEAT_MS = 1000;

/**
 * Redis pub/sub that says when it may have missed something. `open` is called by the first subscription.
 * Messages are sent at the primary for `key`: a connection that may not write it is at the wrong server.
 */
export function createSubscriber(open: () => Redis, key: string, log: Logger) {
  const channels = new Map<string, { listeners: ChannelListener[]; live: boolean; refused: boolean }>();
  let client: Redis | undefined;
  let heartbeat: NodeJS.Timeout | undefined;

  function start(): Redis {
    const opened = open();
    opened.on('ready', listenToAll);
    opened.on('close', loseAll);
    opened.on('message', (channel: string, message: string) => {
      for (const listener of channels.get(channel)?.listeners ?? []) listener.onMessage(message);
    });
    // The connection for commands, to the same server, tells what is wrong.
    opened.on('error', () => undefined);
    heartbeat = setInterval(check, HEARTBEAT_MS);
    heartbeat.unref();
    return opened;
  }

  function check(): void {
    if (client?.status !== 'ready') return;
    listenToAll();
    // A refusal is final; where an answer fails to come, the socket's timeout decides.
    prove(client).catch((error: Error) => {
      if (error.name === 'ReplyError') loseAll();
    });
  }

  /** In the old protocol a connection that listens may do no more than ping. */
  function prove(connection: Redis): Promise<unknown> {
    return connection.mode === 'subscriber' ? connection.ping() : connection.del(key);
  }

  function listenToAll(): void {
    for (const [name, channel] of channels) if (!channel.live) void listen(name);
  }

  async function listen(name: string): Promise<void> {
    const channel = channels.get(name);
    if (!channel || client?.status !== 'ready') return;
    try {
      await prove(client);
      await client.subscribe(name);
      if (channel.live || client.status !== 'ready') return;
      channel.live = true;
      channel.refused = false;
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
      void listen(name);
      return { live: () => channel.live && client?.status === 'ready' };
    },

    /** Before the next heartbeat, for whoever learned that the primary may be another now. */
    check,

    close(): void {
      clearInterval(heartbeat);
      client?.disconnect();
    },
  };
}
