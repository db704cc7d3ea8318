import type { KubeObject } from './cluster/cluster.ts';
import type { Nodes } from './cluster/nodes.ts';
import { expect } from '../stack/report.ts';

/** Counts the pods of the service at every look of the nodes, until it is read. */
export interface RolloutWatch {
  /** @throws Error when pods were fewer than wanted and ready, or one more than that existed */
  end(wanted: number): string;
}

export function watchRollout(nodes: Nodes): RolloutWatch {
  const seen = { leastReady: Infinity, mostPods: 0, looks: 0 };
  const look = (pods: KubeObject[]): void => {
    const staying = pods.filter(({ metadata }) => isOfService(metadata) && !metadata.deletionTimestamp);
    if (staying.length === 0) return;
    seen.looks += 1;
    seen.leastReady = Math.min(seen.leastReady, staying.filter(isReady).length);
    seen.mostPods = Math.max(seen.mostPods, staying.length);
  };
  nodes.watchers.add(look);
  return {
    end(wanted) {
      nodes.watchers.delete(look);
      const { leastReady, mostPods, looks } = seen;
      const evidence = `in ${looks} looks never fewer than ${leastReady} ready, never more than ${mostPods} pods`;
      expect(leastReady >= wanted && mostPods <= wanted + 1, evidence);
      return evidence;
    },
  };
}

export function isReady({ status }: KubeObject): boolean {
  const conditions = (status.conditions ?? []) as { type: string; status: string }[];
  return conditions.some(({ type, status: holds }) => type === 'Ready' && holds === 'True');
}

/** The names of the nodes that they run on, each once. */
export function nodesOf(pods: KubeObject[]): string[] {
  return [...new Set(pods.map(({ spec }) => spec.nodeName as string))].toSorted();
}

function isOfService({ labels }: KubeObject['metadata']): boolean {
  return labels?.['app.kubernetes.io/component'] === 'api';
}
