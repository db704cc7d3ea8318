import { connect, createServer, type Socket } from 'node:net';
import { once } from 'node:events';

/** Between the service and Postgres: makes every answer of Postgres `delayMs` late. */
export async function startSlowProxy(target: { port: number }) {
  const sockets = new Set<Socket>();
  const proxy = { port: 0, delayMs: 0, close };
  const server = createServer((client) => {
    const upstream = connect(target.port, '127.0.0.1');
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.once('close', () => sockets.delete(socket));
    }
    client.on('data', (chunk) => upstream.write(chunk));
    upstream.on('data', (chunk) => {
      // A timer of 0 ms would still change the order of things.
      if (proxy.delayMs === 0) client.write(chunk);
      else setTimeout(() => client.write(chunk), proxy.delayMs).unref();
    });
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      one.on('close', () => other.destroy());
      one.on('error', () => other.destroy());
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no TCP address');
  proxy.port = address.port;
  return proxy;

  function close(): void {
    server.close();
    for (const socket of sockets) socket.destroy();
  }
}
