import type { KubeObject } from './cluster.ts';

/** How far a pod is. */
export interface Stage {
  phase: 'Pending' | 'Running' | 'Succeeded' | 'Failed';
  /** Of its main container. */
  startedAt?: string;
  ready?: boolean;
  exitCode?: number;
}

/** What a node would write of it. */
export function describeStatus(pod: KubeObject, podIP: string, stage: Stage): object {
  const { phase, startedAt, ready = false } = stage;
  const now = new Date().toISOString();
  const condition = (type: string, holds: boolean) => ({
    type,
    status: holds ? 'True' : 'False',
    lastTransitionTime: now,
  });
  const conditions = [
    condition('PodScheduled', true),
    condition('Initialized', startedAt !== undefined),
    condition('ContainersReady', ready),
    condition('Ready', ready),
  ];
  const status = {
    phase,
    conditions,
    podIP,
    podIPs: [{ ip: podIP }],
    startTime: pod.metadata.creationTimestamp,
  };
  return startedAt === undefined ? status : { ...status, containerStatuses: [describeContainer(pod, stage)] };
}

function describeContainer(pod: KubeObject, { startedAt, ready = false, exitCode }: Stage): object {
  const [{ name, image }] = pod.spec.containers as [{ name: string; image: string }];
  const finishedAt = new Date().toISOString();
  const state =
    exitCode === undefined ? { running: { startedAt } } : { terminated: { exitCode, startedAt, finishedAt } };
  return { name, image, imageID: image, ready, started: exitCode === undefined, restartCount: 0, state };
}
