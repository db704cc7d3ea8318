import { setTimeout as delay } from 'node:timers/promises';
import type { Cluster, KubeObject } from './cluster.ts';
import { until } from '../../stack/report.ts';
import { playPod, type PlayedPod, type PodWorld } from './pod.ts';

/** Three nodes in three zones, played by this process: what the scheduler puts on them runs as processes here. */
export interface Nodes {
  /** By the name of the pod. */
  find(name: string): PlayedPod | undefined;
  /** The port of this machine behind the address of a pod. */
  portOf(podIP: string, name: string): number | undefined;
  /** Gets all pods, again and again, until it is taken out. */
  watchers: Set<(pods: KubeObject[]) => void>;
  close(): Promise<void>;
}

const ZONES = ['a', 'b', 'c'];
const LOOK_AGAIN_MS = 150;

export async function openNodes(cluster: Cluster, world: Omit<PodWorld, 'cluster'>): Promise<Nodes> {
  for (const [index, zone] of ZONES.entries()) await addNode(cluster, zone, index);
  await until('pods may run on every node', async () => {
    return (await cluster.list('/api/v1/nodes')).every(({ spec }) => spec.taints === undefined);
  });
  const played = new Map<string, PlayedPod & { name: string; podIP: string }>();
  const ending = new Set<string>();
  const watchers: Nodes['watchers'] = new Set();
  let addresses = 0;
  let isOver = false;

  function look(pods: KubeObject[]): void {
    for (const pod of pods) {
      const { uid, name, deletionTimestamp, deletionGracePeriodSeconds = 0 } = pod.metadata;
      if (!pod.spec.nodeName) continue;
      if (!played.has(uid)) {
        addresses += 1;
        const podIP = `10.244.${addresses >> 8}.${addresses % 256}`;
        played.set(uid, { ...playPod({ ...world, cluster }, pod, podIP), name, podIP });
      }
      if (deletionTimestamp && !ending.has(uid)) {
        ending.add(uid);
        void played.get(uid)?.end(deletionGracePeriodSeconds);
      }
    }
    for (const watcher of watchers) watcher(pods);
  }

  async function loop(): Promise<void> {
    while (!isOver) {
      look(await cluster.list('/api/v1/pods').catch(() => []));
      await delay(LOOK_AGAIN_MS);
    }
  }
  const looping = loop();
  const all = () => [...played.values()];
  const kill = () => {
    for (const each of all()) each.kill();
  };
  // Nothing is left behind when this process ends without.
  process.once('exit', kill);

  return {
    find: (name) => all().find((each) => each.name === name),
    portOf: (podIP, name) => all().find((each) => each.podIP === podIP)?.ports[name],
    watchers,
    async close() {
      isOver = true;
      await looping;
      kill();
      process.off('exit', kill);
    },
  };
}

async function addNode(cluster: Cluster, zone: string, index: number): Promise<void> {
  const name = `node-${zone}`;
  const labels = { 'kubernetes.io/hostname': name, 'topology.kubernetes.io/zone': `zone-${zone}` };
  await cluster.call('POST', '/api/v1/nodes', { metadata: { name, labels } });
  const now = new Date().toISOString();
  const room = { cpu: '8', memory: '16Gi', 'ephemeral-storage': '100Gi', pods: '110' };
  await cluster.call('PATCH', `/api/v1/nodes/${name}/status`, {
    status: {
      capacity: room,
      allocatable: room,
      addresses: [{ type: 'InternalIP', address: `10.0.0.${index + 1}` }],
      conditions: [
        { type: 'Ready', status: 'True', reason: 'Played', lastHeartbeatTime: now, lastTransitionTime: now },
      ],
    },
  });
}
