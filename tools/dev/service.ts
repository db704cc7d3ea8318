import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { watchFolder } from './watch.ts';
import { signal } from './processes.ts';

/** What src/main.ts sends its parent when it serves. */
export interface Listening {
  url: string;
  metricsUrl?: string;
}

export interface Supervision {
  /** The repository's. */
  directory: string;
  env: NodeJS.ProcessEnv;
  /** Start anew when a source file changes. */
  watched: boolean;
  /** How long the service may take to end before it is killed. */
  stopBudgetMs: number;
  stopped: AbortSignal;
  say: (line: string) => void;
  /** Before the service starts again: applies new migrations. A failure is said, and the service says what it lacks. */
  prepare: () => Promise<unknown>;
  onFirstListening: (listening: Listening) => void;
}

/** Runs the service until `stopped`, or until it ends and nothing could bring it back. Returns the exit code. */
export async function superviseService(options: Supervision): Promise<number> {
  const { say, stopBudgetMs } = options;
  const stop = new Promise<'stop'>((resolve) => {
    if (options.stopped.aborted) resolve('stop');
    options.stopped.addEventListener('abort', () => resolve('stop'), { once: true });
  });
  const watcher = options.watched ? watchFolder(join(options.directory, 'src')) : undefined;
  try {
    let announced = false;
    for (;;) {
      const service = startService(options.directory, options.env);
      const changed = watcher?.next() ?? new Promise<never>(() => undefined);
      const first = await Promise.race([service.listening, stop, changed]);
      // A port that is taken or a broken configuration: it has said so itself.
      if (first === undefined && !announced) return await service.ended;
      if (typeof first === 'object' && 'url' in first && !announced) {
        options.onFirstListening(first);
        announced = true;
      }

      let event = await Promise.race([stop, changed, service.ended]);
      if (typeof event === 'number') {
        if (!watcher) return event;
        say(`The service ended with ${event}. It starts again when a file below src changes.`);
        event = await Promise.race([stop, changed]);
      }
      if (event === 'stop') say('Stopping…');
      await service.stop(stopBudgetMs);
      if (event === 'stop') return 0;
      say(`${event.file} changed: starting again…`);
      await options.prepare().catch((error: unknown) => say((error as Error).message));
    }
  } finally {
    watcher?.close();
  }
}

/**
 * The child has a process group of its own: the terminal's Ctrl-C reaches only us, and the order of ending is
 * ours. Over the IPC channel it notices when we are killed.
 */
function startService(directory: string, env: NodeJS.ProcessEnv) {
  const child = spawn(process.execPath, ['--import', 'tsx', 'src/main.ts'], {
    cwd: directory,
    env,
    detached: process.platform !== 'win32',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const ended = once(child, 'exit').then(([code]) => (typeof code === 'number' ? code : 1));
  const listens = new Promise<Listening>((resolve) => {
    child.on('message', (message) => {
      if (isListening(message)) resolve(message);
    });
  });
  return {
    ended,
    /** Undefined when it ended before it listened. */
    listening: Promise.race([listens, ended.then(() => undefined)]),
    async stop(budgetMs: number): Promise<void> {
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
