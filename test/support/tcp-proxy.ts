import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import type { Test } from 'tap';

/** A way to a server on this machine that can fail as a network does. */
export interface TcpProxy {
  port: number;
  /** What the server says arrives so much later, in milliseconds. */
  delayMs: number;
  /** Connections stay open, new ones are accepted, and nothing comes through. */
  cut(): void;
  /** What was on its way is lost, as are the connections that it belonged to. */
  mend(): void;
  /** Connections break, and there are no new ones. */
  close(): void;
}

/** Forwards to a port of loopback. */
export async function openTcpProxy(target: number): Promise<TcpProxy> {
  const sockets = new Set<Socket>();
  let isCut = false;
  const forward = (from: Socket, to: Socket, delayMs: () => number) => {
    const pass = (data: Buffer) => void (isCut || to.write(data));
    sockets.add(from);
    // A timer of 0 ms would still change the order of things.
    from.on('data', (data) =>
      delayMs() === 0 ? pass(data) : void setTimeout(pass, delayMs(), data).unref(),
    );
    from.on('error', () => undefined);
    from.on('close', () => {
      sockets.delete(from);
      if (!isCut) to.destroy();
    });
  };
  const breakAll = () => {
    for (const socket of sockets) socket.destroy();
  };
  const server = createServer((client) => {
    const upstream = connect(target, '127.0.0.1');
    forward(client, upstream, () => 0);
    forward(upstream, client, () => proxy.delayMs);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const proxy: TcpProxy = {
    port: (server.address() as AddressInfo).port,
    delayMs: 0,
    cut: () => void (isCut = true),
    mend() {
      isCut = false;
      breakAll();
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
