// Goes with the example: src/features/orders
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

/** Below the floor: node:http answering every request with the same bytes. */
const body = Buffer.from(process.env.BENCH_BODY ?? '{}');
const headers = { 'content-type': 'application/json; charset=utf-8', 'content-length': body.length };
const server = createServer((_request, response) => {
  response.writeHead(200, headers).end(body);
});
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address() as AddressInfo;
  process.send?.({ type: 'listening', url: `http://127.0.0.1:${port}` });
});
process.once('disconnect', () => process.exit());
process.once('SIGTERM', () => process.exit());
