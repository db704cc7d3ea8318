import type { Redis } from 'ioredis';
import type { Logger } from 'pino';

export interface ChannelListener {
  onMessage(message: string): void;
  /**
   * Messages may have been missed up to this moment: forget what they would have changed. Called
   * when the channel is lost and again when it is heard (also for the first time).
   */
  onGap(): void;
}

export interface Subscription {
  /** True while every message arrives; turns false within about two seconds of a silent death. */
  live(): boolean;
}

/** A ping, answered within the socket's timeout, is the only proof that silence means no messages. */
const HEARTBEAT_MS = 1000;

/** Redis pub/sub that says when it may have missed something. `open` is called by the first subscription. */
export function createSubscriber(open: () => Redis, log: Logger) {
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
    heartbeat = setInterval(() => {
      if (opened.status !== 'ready') return;
      opened.ping().catch(() => undefined);
      listenToAll();
    }, HEARTBEAT_MS);
    heartbeat.unref();
    return opened;
  }

  function listenToAll(): void {
    for (const [name, channel] of channels) if (!channel.live) void listen(name);
  }

  async function listen(name: string): Promise<void> {
    const channel = channels.get(name);
    if (!channel || client?.status !== 'ready') return;
    try {
      await client.subscribe(name);
      if (channel.live || client.status !== 'ready') return;
      channel.live = true;
      channel.refused = false;
      for (const listener of channel.listeners) listener.onGap();
    } catch (error) {
      // The next heartbeat tries again.
      if (!channel.refused && client.status === 'ready') {
        log.warn({ channel: name, reason: (error as Error).message }, 'Redis refuses a subscription');
        channel.refused = true;
      }
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

    close(): void {
      clearInterval(heartbeat);
      client?.disconnect();
    },
  };
}
