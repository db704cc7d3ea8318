import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import type { Test } from 'tap';

/** A way to a server on this machine that can be cut as a network cuts: nothing comes through, nothing is closed. */
export interface TcpProxy {
  port: number;
  cut(): void;
  mend(): void;
}

/** Forwards to a port of loopback until `t` ends. */
export async function startTcpProxy(t: Test, target: number): Promise<TcpProxy> {
  const sockets = new Set<Socket>();
  let isCut = false;
  const forward = (from: Socket, to: Socket) => {
    sockets.add(from);
    from.on('data', (data) => void (isCut || to.write(data)));
    from.on('error', () => undefined);
    from.on('close', () => {
      sockets.delete(from);
      if (!isCut) to.destroy();
    });
  };
  const server = createServer((client) => {
    const upstream = connect(target, '127.0.0.1');
    forward(client, upstream);
    forward(upstream, client);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return {
    port: (server.address() as AddressInfo).port,
    cut: () => void (isCut = true),
    mend() {
      isCut = false;
      // What was on its way is lost, as are the connections that it belonged to.
      for (const socket of sockets) socket.destroy();
    },
  };
}
