// Goes with the example: src/features/orders
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';

export interface Usage {
  cpuMicros: number;
  rssBytes: number;
  heapBytes: number;
}

/** A measured process; the numbers are its own, load generator and databases not included. */
export interface Server {
  url: string;
  metricsUrl: string | undefined;
  usage(): Promise<Usage>;
  /** Takes a CPU profile of it until `work` has ended, and writes it to `file`. */
  profile(file: string, work: () => Promise<unknown>): Promise<void>;
  stop(): Promise<void>;
}

const PROBE = new URL('probe.js', import.meta.url).href;
const SAMPLE_MICROS = 250;

/** Starts a program that reports `{ type: 'listening', url }` to its parent. */
export async function startServer(
  file: string,
  env: NodeJS.ProcessEnv,
  execArgv: string[] = [],
): Promise<Server> {
  const child = fork(file, {
    env: { ...process.env, ...env },
    // tsx would count as memory of a compiled program.
    execArgv: [...(file.endsWith('.ts') ? ['--import', 'tsx'] : []), '--import', PROBE, ...execArgv],
    // The log goes where it goes in a container: into a pipe that somebody reads.
    stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
  });
  child.stdout?.resume();
  const { url, metricsUrl } = await messageOf<{ url: string; metricsUrl?: string }>(child, 'listening');
  return {
    url,
    metricsUrl,
    async usage() {
      child.send('usage');
      return messageOf<Usage>(child, 'usage');
    },
    async profile(to, work) {
      child.send({ profile: 'start', intervalMicros: SAMPLE_MICROS });
      await messageOf(child, 'profiling');
      await work();
      child.send({ profile: 'stop', file: to });
      await messageOf(child, 'profiled');
    },
    async stop() {
      child.kill('SIGTERM');
      if (child.exitCode === null) await once(child, 'exit');
    },
  };
}

function messageOf<T>(child: ChildProcess, type: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const onMessage = (message: { type?: string }) => {
      if (message.type !== type) return;
      child.off('message', onMessage);
      child.off('exit', onExit);
      resolve(message as T);
    };
    const onExit = (code: number | null) => reject(new Error(`a measured process ended with code ${code}`));
    child.on('message', onMessage);
    child.once('exit', onExit);
  });
}
