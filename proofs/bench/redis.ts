// Goes with the example: src/features/orders
import { Redis } from 'ioredis';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { findFreePort } from '../../tools/dev/free-port.ts';

/** REDIS_URL, or a `redis-server` on PATH that is started for this run. */
export async function findRedis(): Promise<{ url: string; stop(): void }> {
  const given = process.env.REDIS_URL;
  if (given) return { url: given, stop: () => undefined };
  const port = await findFreePort();
  const child = spawn('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--save', ''], {
    stdio: 'ignore',
  });
  await once(child, 'spawn').catch((cause: unknown) => {
    throw new Error('This bench needs a Redis: set REDIS_URL or install redis-server', { cause });
  });
  const stop = () => void child.kill();
  // Also when something throws before it is told to stop.
  process.once('exit', stop);
  return { url: `redis://127.0.0.1:${port}`, stop };
}

/** A client that can be used at once: a server that was just started needs a moment. */
export async function connectRedis(url: string): Promise<Redis> {
  const client = new Redis(url);
  client.on('error', () => undefined);
  await new Promise<void>((resolve) => {
    client.once('ready', resolve);
  });
  return client;
}
