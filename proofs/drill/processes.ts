import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

export interface RunningProcess {
  /** SIGKILL; resolves when it has ended. */
  kill(): Promise<void>;
  signal(name: NodeJS.Signals): void;
}

export interface ProcessOptions {
  file: string;
  args: string[];
  cwd: string;
  env: NodeJS.ProcessEnv;
  /** Gets what it prints. */
  logFile: string;
  /** Whether it can be used by now. */
  ready: () => Promise<boolean>;
}

const READY_WITHIN_MS = 30_000;

/**
 * Starts a program and resolves when it is ready. It has a process group of its own, so that a terminal's
 * Ctrl-C ends the drill and the drill ends it. @throws Error with the end of its log when it does not get ready
 */
export async function startProcess(options: ProcessOptions): Promise<RunningProcess> {
  const { file, args, cwd, env, logFile, ready } = options;
  const child = spawn(file, args, { cwd, env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => appendFileSync(logFile, chunk));
  const kill = killer(child);
  const ended = once(child, 'exit').then(() => true);

  const end = Date.now() + READY_WITHIN_MS;
  while (!(await ready().catch(() => false))) {
    const over = await Promise.race([ended, delay(100, Date.now() > end)]);
    if (!over) continue;
    await kill();
    const log = existsSync(logFile) ? readFileSync(logFile, 'utf8').trim().slice(-2000) : '';
    throw new Error(`${basename(file)} did not start:\n${log}`);
  }
  return { kill, signal: (name) => void child.kill(name) };
}

/** Also when this process ends without: nothing may be left behind. */
function killer(child: ChildProcess): () => Promise<void> {
  const kill = () => void child.kill('SIGKILL');
  process.once('exit', kill);
  return async () => {
    process.off('exit', kill);
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
    const ended = once(child, 'exit');
    kill();
    await ended;
  };
}

/** Whether a server answers with 2xx. */
export async function answersOk(url: string): Promise<boolean> {
  const response = await fetch(url, { signal: AbortSignal.timeout(2000) });
  await response.arrayBuffer();
  return response.ok;
}
