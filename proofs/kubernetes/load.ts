import { request } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import type { Cluster } from './cluster/cluster.ts';
import type { Nodes } from './cluster/nodes.ts';

/** Requests to whatever the Service leads to, each on a connection of its own. */
export interface ClusterLoad {
  counts: { sent: number; failed: number };
  /** What went wrong first. */
  firstFailure(): string | undefined;
  stop(): Promise<void>;
}

interface EndpointSlice {
  endpoints?: { addresses: string[]; conditions: { ready?: boolean } }[];
}

const EVERY_MS = 50;
const LOOK_AGAIN_MS = 250;

/** The ready endpoints of a Service, as kube-proxy and ingresses see them. */
export async function findEndpoints(cluster: Cluster, service: string): Promise<string[]> {
  const label = encodeURIComponent(`kubernetes.io/service-name=${service}`);
  const path = `/apis/discovery.k8s.io/v1/namespaces/hardpoint/endpointslices?labelSelector=${label}`;
  const { items } = await cluster.call<{ items: EndpointSlice[] }>('GET', path);
  const endpoints = items.flatMap((slice) => slice.endpoints ?? []);
  return endpoints.filter(({ conditions }) => conditions.ready).flatMap(({ addresses }) => addresses);
}

/** A request every 50 ms that needs Postgres, to one endpoint after the other. */
export function startClusterLoad(cluster: Cluster, nodes: Nodes, token: string): ClusterLoad {
  const counts = { sent: 0, failed: 0 };
  const pending = new Set<Promise<void>>();
  let endpoints: string[] = [];
  let firstFailure: string | undefined;
  let isOver = false;

  async function send(podIP: string): Promise<void> {
    counts.sent += 1;
    try {
      const status = await ask(nodes.portOf(podIP, 'http') ?? 0, token);
      if (status === 200) return;
      throw new Error(`status ${status}`);
    } catch (error) {
      counts.failed += 1;
      firstFailure ??= `${podIP}: ${(error as Error).message}`;
    }
  }
  async function watch(): Promise<void> {
    while (!isOver) {
      endpoints = await findEndpoints(cluster, 'hardpoint-api').catch(() => endpoints);
      await delay(LOOK_AGAIN_MS);
    }
  }
  async function drive(): Promise<void> {
    while (!isOver) {
      const podIP = endpoints[counts.sent % endpoints.length];
      if (podIP) {
        const one = send(podIP).finally(() => pending.delete(one));
        pending.add(one);
      }
      await delay(EVERY_MS);
    }
  }
  const loops = [watch(), drive()];
  return {
    counts,
    firstFailure: () => firstFailure,
    async stop() {
      isOver = true;
      await Promise.all(loops);
      await Promise.all(pending);
    },
  };
}

/** As an ingress does it: TLS has ended there. */
function ask(port: number, token: string): Promise<number> {
  const headers = {
    authorization: `Bearer ${token}`,
    'x-forwarded-proto': 'https',
    'x-forwarded-for': '203.0.113.7',
  };
  const options = { host: '127.0.0.1', port, path: '/v1/audit-events?limit=1', headers, timeout: 10_000 };
  return new Promise((resolve, reject) => {
    const sent = request({ ...options, agent: false }, (response) => {
      response.resume();
      response.on('error', reject);
      response.on('end', () => resolve(response.statusCode ?? 0));
    });
    sent.on('timeout', () => sent.destroy(new Error('no answer in 10 s')));
    sent.on('error', reject);
    sent.end();
  });
}
