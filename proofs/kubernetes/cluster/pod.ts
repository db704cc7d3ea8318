import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { findFreePort } from '../../../tools/dev/free-port.ts';
import type { Cluster, KubeObject } from './cluster.ts';
import { readEnvironment, type Container } from './container.ts';
import { describeStatus, type Stage } from './pod-status.ts';
import { watchProbe, type Probe } from '../probe.ts';

export interface PodWorld {
  cluster: Cluster;
  /** Where the files of an image lie; undefined for one that cannot be pulled. */
  findImage(image: string): string | undefined;
  /** Whether its main container may not begin yet. */
  isHeld(pod: KubeObject): boolean;
}

export interface PlayedPod {
  /** The ports of this machine, by the names that the pod has for its own. */
  ports: Record<string, number>;
  /** What its processes printed. */
  log(): string;
  /** How its main process ended; undefined before, null when it was killed. */
  exitCode(): number | null | undefined;
  /** As a node does: the preStop sleep, SIGTERM, SIGKILL when the grace period is over; then the object goes. */
  end(graceSeconds: number): Promise<void>;
  kill(): void;
}

const RETRY_MS = 300;
// What an image's ENTRYPOINT begins with, but for the path.
const ENTRYPOINT = [process.execPath, '--enable-source-maps'] as const;

/** Runs the containers of a pod as processes of this machine, with the variables, files and probes of its spec. */
export function playPod(world: PodWorld, pod: KubeObject, podIP: string): PlayedPod {
  const { cluster } = world;
  const { name, namespace } = pod.metadata;
  const home = mkdtempSync(join(cluster.folder, 'pod-'));
  const ports: Record<string, number> = {};
  const [main] = pod.spec.containers as [Container];
  let log = '';
  let child: ChildProcess | undefined;
  let exitCode: number | null | undefined;
  let isEnding = false;

  const path = `/api/v1/namespaces/${namespace}/pods/${name}`;
  const tell = (stage: Stage) =>
    cluster.call('PATCH', `${path}/status`, { status: describeStatus(pod, podIP, stage) });

  async function start(container: Container): Promise<ChildProcess> {
    const image = await retry(async () => world.findImage(container.image));
    const env = await retry(() => readEnvironment(cluster, pod, container, home));
    for (const { name: port, containerPort } of container.ports ?? []) {
      const variable = Object.keys(env).find(
        (key) => key.endsWith('_PORT') && env[key] === `${containerPort}`,
      );
      ports[port] = await findFreePort();
      if (variable) env[variable] = String(ports[port]);
    }
    const [node, flag] = ENTRYPOINT;
    const args = [flag, ...(container.args ?? ['dist/main.js'])];
    const started = spawn(node, args, { cwd: image, env, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [started.stdout, started.stderr])
      stream.on('data', (chunk: Buffer) => (log = (log + chunk.toString()).slice(-20_000)));
    child = started;
    return started;
  }

  /** A secret or an image that is not there yet is waited for, as a node does. */
  async function retry<T>(work: () => Promise<T | undefined>): Promise<T> {
    for (;;) {
      const found = await work().catch(() => undefined);
      if (found !== undefined) return found;
      if (isEnding) throw new Error('the pod is at its end');
      await delay(RETRY_MS);
    }
  }

  async function live(): Promise<void> {
    await tell({ phase: 'Pending' });
    for (const init of (pod.spec.initContainers ?? []) as Container[]) {
      const ended = async () => {
        const [code] = await once(await start(init), 'exit');
        return code === 0 || undefined;
      };
      await retry(ended);
    }
    await retry(async () => !world.isHeld(pod) || undefined);
    const running = await start(main);
    const exited = once(running, 'exit').then(([code]) => (exitCode = code as number | null));
    const startedAt = new Date().toISOString();
    await tell({ phase: 'Running', startedAt, ready: false });
    const isOver = () => exitCode !== undefined;
    void follow(main, isOver, startedAt, running);
    await exited;
    if (isEnding) return;
    await tell({ phase: exitCode === 0 ? 'Succeeded' : 'Failed', startedAt, exitCode: exitCode ?? 137 });
  }

  async function follow(
    container: Container,
    isOver: () => boolean,
    startedAt: string,
    running: ChildProcess,
  ) {
    const watch = (probe: Probe | undefined, changed: (passes: boolean) => unknown) =>
      probe && watchProbe(probe, ports, isOver, changed);
    if (container.startupProbe) {
      await new Promise<void>((resolve) => {
        void watch(container.startupProbe, (passes) => (passes ? resolve() : running.kill('SIGKILL')));
      });
    }
    void watch(container.livenessProbe, (passes) => passes || running.kill('SIGKILL'));
    void watch(container.readinessProbe, (ready) => tell({ phase: 'Running', startedAt, ready }));
  }

  const life = live().catch((error: Error) => (log += `\n${error.message}`));
  const kill = () => {
    // It waits for nothing any more, such as an image that nobody has.
    isEnding = true;
    child?.kill('SIGKILL');
  };

  return {
    ports,
    log: () => log,
    exitCode: () => exitCode,
    kill,
    async end(graceSeconds) {
      isEnding = true;
      const endMs = performance.now() + graceSeconds * 1000;
      const isServing = child && exitCode === undefined && main.lifecycle?.preStop;
      if (isServing) await delay((main.lifecycle?.preStop?.sleep.seconds ?? 0) * 1000);
      child?.kill('SIGTERM');
      const killer = setTimeout(kill, Math.max(0, endMs - performance.now()));
      await life;
      clearTimeout(killer);
      const own = { gracePeriodSeconds: 0, preconditions: { uid: pod.metadata.uid } };
      await cluster.call('DELETE', path, own).catch((error: Error) => {
        // Somebody else has taken it away, or the whole cluster.
        if (!/: (404|409) |ECONN/.test(error.message)) throw error;
      });
    },
  };
}
