import { execFile, spawn, type ChildProcess, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import type { Test } from 'tap';
import { refuseLeaks, secretsIn } from './canary.ts';
import { repositoryDir } from './servers.ts';

export interface ServiceProcess {
  child: ChildProcess;
  url: string;
  port: number;
  metricsUrl: string;
  /** The log so far, one object a line. */
  logs: Record<string, unknown>[];
  /** Exit code, or the signal that ended it. */
  ended: Promise<number | string>;
}

/**
 * The service as it runs in production, in a process of its own that listens by now; killed when `t` ends.
 * `stdout` is a file descriptor in the place of the pipe that `logs` is read from.
 */
export async function startService(
  t: Test,
  env: Record<string, string>,
  nodeArgs: string[] = [],
  stdout?: number,
): Promise<ServiceProcess> {
  const { child, logs, stderr, ended } = spawnService(t, env, nodeArgs, stdout);
  const listening = once(child, 'message').then(
    ([message]) => message as { url: string; metricsUrl: string },
  );
  const first = await Promise.race([listening, ended]);
  if (typeof first !== 'object') throw new Error(`The service ended with ${first}:\n${stderr()}`);
  return { child, logs, ended, ...first, port: Number(new URL(first.url).port) };
}

/** The same, listening or not. */
export function spawnService(
  t: Test,
  env: Record<string, string>,
  nodeArgs: string[] = [],
  stdout: number | 'pipe' = 'pipe',
) {
  const variables = {
    API_HOST: '127.0.0.1',
    API_PORT: '0',
    METRICS_PORT: '0',
    API_KEY_SECRET: 'only-for-tests-8b1f0c6d2e9a4753-51f6',
    RATE_LIMIT_PER_MINUTE: '1000000',
    DRAIN_DELAY_SECONDS: '0',
    EXPECTED_REPLICAS: '1',
    SHUTDOWN_TIMEOUT_SECONDS: '5',
    // A machine that runs several tests at once is late, and that is no news.
    MAX_EVENT_LOOP_DELAY_MS: '0',
    ...env,
  };
  const child = spawn(process.execPath, [...nodeArgs, ...programOf('main')], {
    cwd: repositoryDir,
    env: { PATH: process.env.PATH, ...variables },
    stdio: ['ignore', stdout, 'pipe', 'ipc'],
  }) as ChildProcessByStdio<null, Readable | null, Readable>;
  const logs: Record<string, unknown>[] = [];
  let errors = '';
  let rest = '';
  child.stdout?.on('data', (chunk: Buffer) => {
    const lines = (rest + chunk.toString()).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) logs.push(JSON.parse(line));
  });
  child.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
  // With all that it wrote. 'close' would be that, but does not come after disconnect().
  const written = [child.stdout, child.stderr].filter((stream) => stream !== null);
  const closed = written.map((stream) => once(stream, 'close'));
  const ended = Promise.all([once(child, 'exit'), ...closed]).then(
    ([[code, signal]]): number | string => code ?? signal,
  );
  t.teardown(async () => {
    child.kill('SIGKILL');
    await ended;
    refuseLeaks(secretsIn(variables), { log: JSON.stringify(logs), 'standard error': errors });
  });
  return { child, logs, ended, stderr: () => errors };
}

export interface CommandResult {
  code: number;
  stdout: string;
  stderr: string;
}

/** A command as a person runs it, with these variables alone, from a folder without `.env` and `npm run dev`. */
export async function runCommand(
  name: Parameters<typeof programOf>[0],
  args: string[],
  env: Record<string, string>,
): Promise<CommandResult> {
  const cwd = mkdtempSync(join(tmpdir(), 'hardpoint-test-'));
  const options = { cwd, env: { PATH: process.env.PATH, ...env } };
  const words = [...programOf(name), ...args];
  try {
    return await new Promise((resolve) => {
      execFile(process.execPath, words, options, (error, stdout, stderr) =>
        resolve({ code: error ? Number(error.code) : 0, stdout, stderr }),
      );
    });
  } finally {
    rmSync(cwd, { recursive: true });
  }
}

/** How Node is told to run a program of src: as `npm run build` made it, in half the time, unless src was changed since. */
export function programOf(name: 'main' | `cli/${'api-key' | 'migrate' | 'monitor'}`): string[] {
  const built = join(repositoryDir, 'dist', `${name}.js`);
  const sources = readdirSync(join(repositoryDir, 'src'), { recursive: true, encoding: 'utf8' });
  const changedAt = Math.max(
    ...sources.map((source) => statSync(join(repositoryDir, 'src', source)).mtimeMs),
  );
  if (existsSync(built) && statSync(built).mtimeMs > changedAt) return [built];
  return ['--import', import.meta.resolve('tsx'), join(repositoryDir, 'src', `${name}.ts`)];
}
