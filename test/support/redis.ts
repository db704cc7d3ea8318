import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { basename } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import type { Test } from 'tap';
import { findFreePort } from '../../tools/dev/free-port.ts';
import { forgetProcess, registerProcess, signalTree } from './processes.ts';
import { containerOf } from './redis-container.ts';
import { useServers, type RedisProgram } from './servers.ts';
import { skipLoudly } from './tools.ts';

export interface RedisServer {
  url: string;
  port: number;
  stop(): Promise<void>;
  /** After stop(), on the same port; empty again. */
  start(): Promise<void>;
  restart(): Promise<void>;
  /** Connections stay open and nothing answers, until thaw(). */
  freeze(): void;
  thaw(): void;
}

/**
 * The URL of a Redis for this test file alone: a server of its own (a number of a shared one would still share
 * pub/sub), or an empty database of TEST_REDIS_URL when that is set.
 * @returns undefined after skipping `t` where no Redis can be had. @throws Error instead, with REQUIRE_REDIS=1
 */
export async function redisUrl(t: Test): Promise<string | undefined> {
  if (process.env.TEST_REDIS_URL) return (shared ??= claimDatabase(process.env.TEST_REDIS_URL));
  const program = await getProgram(t);
  if (!program) return undefined;
  own ??= launch(program, [], await findFreePort());
  return (await own).url;
}

let shared: Promise<string> | undefined;
let own: Promise<RedisServer> | undefined;

/**
 * A server of its own, for tests that take it away; gone when `t` ends. Undefined as with redisUrl. `args` may
 * begin with a configuration file; `asProcess`: it must not be a container.
 */
export async function startRedis(
  t: Test,
  options: { args?: string[]; port?: number; asProcess?: boolean } = {},
): Promise<RedisServer | undefined> {
  const program = await getProgram(t, options.asProcess);
  if (!program) return undefined;
  const server = await launch(program, options.args ?? [], options.port ?? (await findFreePort()));
  t.teardown(() => server.stop());
  return server;
}

async function getProgram(t: Test, asProcess = false): Promise<RedisProgram | undefined> {
  const { redis } = await useServers();
  if (redis && !(asProcess && 'image' in redis)) return redis;
  const help =
    'needs Redis: install redis-server or valkey-server, or set TEST_REDIS_URL (the latter not for outage tests)';
  skipLoudly(t, help, process.env.REQUIRE_REDIS === '1');
  return undefined;
}

const launched: { stop(): Promise<void> }[] = [];

async function launch(program: RedisProgram, args: string[], port: number): Promise<RedisServer> {
  const server = 'image' in program ? containerOf(program.image, args, port) : processOf(program, args, port);
  const start = async () => {
    server.start();
    const end = Date.now() + 10_000;
    while (!(await answers(port))) {
      if (Date.now() > end) throw new Error(`Redis does not answer on port ${port}`);
      await delay(10);
    }
  };
  const restart = () => server.stop().then(start);
  if (launched.length === 0) process.once('exit', () => launched.forEach((each) => void each.stop()));
  launched.push(server);
  await start();
  return { ...server, start, restart, port, url: `redis://127.0.0.1:${port}` };
}

function processOf(program: { file: string; libraryPath?: string }, args: string[], port: number) {
  const place = ['--port', String(port), '--bind', '127.0.0.1'];
  // Nothing on disk, not even what a replica gets from its primary.
  const fixed = [...place, '--save', '', '--appendonly', 'no', '--repl-diskless-load', 'on-empty-db'];
  const [first = '--'] = args;
  const line = first.startsWith('--') ? [...fixed, ...args] : [first, ...fixed, ...args.slice(1)];
  const env = { ...process.env, ...(program.libraryPath && { LD_LIBRARY_PATH: program.libraryPath }) };
  let child: ReturnType<typeof spawn> | undefined;
  return {
    start() {
      // Not detached, but unreferenced: a test file that is done need not wait for it.
      child = spawn(program.file, line, { env, stdio: 'ignore' });
      child.unref();
      if (child.pid) registerProcess(child.pid, basename(program.file));
    },
    async stop() {
      if (!child?.pid || child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, 'exit');
      child.ref();
      signalTree(child.pid, 'SIGKILL');
      forgetProcess(child.pid);
      await ended;
    },
    freeze: () => void child?.kill('SIGSTOP'),
    thaw: () => void child?.kill('SIGCONT'),
  };
}

/** One of the numbered databases, emptied; the mark in database 0 keeps other test files off it. */
async function claimDatabase(url: string): Promise<string> {
  const client = new Redis(url);
  try {
    for (let number = 1; number < 16; number += 1) {
      if (!(await client.set(`hardpoint:test:${number}`, process.pid, 'EX', 120, 'NX'))) continue;
      await client.select(number);
      await client.flushdb();
      return Object.assign(new URL(url), { pathname: `/${number}` }).href;
    }
  } finally {
    client.disconnect();
  }
  throw new Error('Every numbered database of TEST_REDIS_URL is taken by another test file');
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write('PING\r\n'));
    socket.setTimeout(500, () => socket.destroy());
    // A password (args) makes the answer -NOAUTH, which is one.
    socket.once('data', (data) => {
      socket.destroy();
      resolve(/^(\+PONG|-NOAUTH)/.test(data.toString()));
    });
    socket.once('error', () => resolve(false));
    socket.once('close', () => resolve(false));
  });
}
