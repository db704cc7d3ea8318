import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { signal } from './processes.ts';

export interface Listening {
  url: string;
  metricsUrl?: string;
}

export interface Service {
  /** Undefined when it ended before it listened. */
  listening: Promise<Listening | undefined>;
  /** Its exit code. */
  ended: Promise<number>;
  /** Asks it to end and resolves when it has; after `budgetMs` it is killed. */
  stop(budgetMs: number): Promise<void>;
}

/**
 * Runs src/main.ts as a child. In a process group of its own, so that the terminal's Ctrl-C reaches only us
 * and the order of ending is ours; over the IPC channel the child notices when we are killed.
 */
export function startService(directory: string, env: NodeJS.ProcessEnv): Service {
  const child = spawn(process.execPath, ['--import', 'tsx', 'src/main.ts'], {
    cwd: directory,
    env,
    detached: process.platform !== 'win32',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const ended = once(child, 'exit').then(([code]) => (typeof code === 'number' ? code : 1));
  const listening = new Promise<Listening>((resolve) => {
    child.on('message', (message) => {
      if (isListening(message)) resolve(message);
    });
  });
  return {
    ended,
    listening: Promise.race([listening, ended.then(() => undefined)]),
    async stop(budgetMs) {
      child.kill('SIGTERM');
      const timer = new AbortController();
      const late = delay(budgetMs, true, { signal: timer.signal }).catch(() => false);
      if (await Promise.race([late, ended.then(() => false)])) killGroup(child.pid);
      timer.abort();
      await ended;
    },
  };
}

function isListening(message: unknown): message is Listening {
  return typeof message === 'object' && message !== null && 'type' in message && message.type === 'listening';
}

function killGroup(pid: number | undefined): void {
  if (pid) signal(process.platform === 'win32' ? pid : -pid, 'SIGKILL');
}
