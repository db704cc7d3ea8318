import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';

/** A way to a server on this machine that can fail as a network does. Set a field, and it holds from then on. */
export interface TcpProxy {
  port: number;
  /** What the server says arrives so many milliseconds later, and up to `jitterMs` more; in order. */
  delayMs: number;
  jitterMs: number;
  /** How much of it passes, for each connection. */
  bytesPerSecond: number;
  /** When one side closes, the other learns of it so much later. */
  closeDelayMs: number;
  /** Connections stay open, new ones are accepted, and nothing comes through. */
  cut(): void;
  /** What was on its way is lost, as are the connections that it belonged to. */
  mend(): void;
  /** As `cut`, but the data waits, as TCP repeats it when the way is open again. */
  hold(): void;
  release(): void;
  /** Connections are reset, new ones as soon as they are made, until `accept`. */
  reset(): void;
  /** Connections break, and new ones are refused, until `accept`. */
  refuse(): Promise<void>;
  accept(): Promise<void>;
  /**
   * The next time that the client says this, the server hears it and the client loses its connection: once
   * the server has answered, or `atOnce`.
   */
  loseAnswerTo(text: string, atOnce?: boolean): void;
  /** Connections break, and there are no new ones. */
  close(): void;
}

/** Forwards to a port of loopback. */
export async function openTcpProxy(target: number): Promise<TcpProxy> {
  const sockets = new Set<Socket>();
  let [isCut, isHeld, resets] = [false, false, false];
  let lost: { text: string; atOnce: boolean } | undefined;

  const forward = (from: Socket, to: Socket, slow: boolean) => {
    let freeAtMs = 0;
    let pending = 0;
    let sent = Promise.resolve();
    const delayOf = (bytes: number) => {
      const now = performance.now();
      freeAtMs = Math.max(freeAtMs, now) + (bytes / proxy.bytesPerSecond) * 1000;
      return freeAtMs - now + proxy.delayMs + Math.random() * proxy.jitterMs;
    };
    const pass = (data: Buffer) => void (isCut || to.write(data));
    sockets.add(from);
    from.on('data', (data) => {
      const delayMs = slow ? delayOf(data.length) : 0;
      // Even a timer of 0 ms would change the order of things.
      if (delayMs === 0 && pending === 0) {
        pass(data);
        return;
      }
      const arrival = sleep(delayMs, undefined, { ref: false });
      pending += 1;
      sent = sent
        .then(() => arrival)
        .then(() => {
          pending -= 1;
          pass(data);
        });
    });
    from.on('error', () => undefined);
    from.on('close', () => {
      sockets.delete(from);
      if (isCut) return;
      if (proxy.closeDelayMs === 0) to.destroy();
      else setTimeout(() => to.destroy(), proxy.closeDelayMs).unref();
    });
  };
  const breakAll = (way: 'destroy' | 'resetAndDestroy' = 'destroy') => {
    for (const socket of sockets) socket[way]();
  };
  const accept = (client: Socket) => {
    if (resets) {
      client.resetAndDestroy();
      return;
    }
    if (isHeld) {
      // As if its first packet were repeated until it came through: the server hears only of who still waits then.
      const early: Buffer[] = [];
      const keep = (data: Buffer) => void early.push(data);
      const drop = () => {
        heldBack.delete(open);
        sockets.delete(client);
      };
      const open = () => {
        client.off('data', keep).off('close', drop).pause();
        if (early.length > 0) client.unshift(Buffer.concat(early));
        heldBack.delete(open);
        accept(client);
      };
      sockets.add(client);
      heldBack.add(open);
      client
        .on('data', keep)
        .on('close', drop)
        .on('error', () => undefined);
      return;
    }
    const upstream = connect({ port: target, host: '127.0.0.1', noDelay: true });
    client.on('data', (data) => {
      if (!lost || !data.includes(lost.text)) return;
      const { atOnce } = lost;
      lost = undefined;
      upstream.removeAllListeners('data').once('data', () => {
        client.destroy();
        upstream.destroy();
      });
      // Half closed: the server goes on until it wants to answer.
      if (atOnce)
        client
          .removeAllListeners('close')
          .on('close', () => sockets.delete(client))
          .destroy();
    });
    forward(client, upstream, false);
    forward(upstream, client, true);
    client.resume();
  };
  const heldBack = new Set<() => void>();
  const server = createServer({ noDelay: true }, accept);
  const listen = (port: number) => once(server.listen(port, '127.0.0.1'), 'listening');
  await listen(0);

  const proxy: TcpProxy = {
    port: (server.address() as AddressInfo).port,
    delayMs: 0,
    jitterMs: 0,
    bytesPerSecond: Infinity,
    closeDelayMs: 0,
    loseAnswerTo(text, atOnce = false) {
      lost = { text, atOnce };
    },
    cut: () => void (isCut = true),
    mend() {
      isCut = false;
      breakAll();
    },
    hold() {
      isHeld = true;
      for (const socket of sockets) socket.pause();
    },
    release() {
      isHeld = false;
      for (const socket of sockets) socket.resume();
      for (const open of heldBack) open();
    },
    reset() {
      resets = true;
      breakAll('resetAndDestroy');
    },
    async refuse() {
      const closed = once(server, 'close');
      server.close();
      breakAll('resetAndDestroy');
      await closed;
    },
    async accept() {
      resets = false;
      if (!server.listening) await listen(proxy.port);
    },
    close() {
      server.close();
      breakAll();
    },
  };
  return proxy;
}

/** The same until `t` ends. */
export async function startTcpProxy(t: Test, target: number): Promise<TcpProxy> {
  const proxy = await openTcpProxy(target);
  t.teardown(() => proxy.close());
  return proxy;
}
