import { join } from 'node:path';
import { watchRollout, isReady } from './rollout-watch.ts';
import type { ClusterWorld } from './environment.ts';
import { expect, until, type Report } from '../stack/report.ts';

const NAMESPACE = ['-n', 'hardpoint'];
const DEPLOYMENT = '/apis/apps/v1/namespaces/hardpoint/deployments/hardpoint-api';
const SCALED = 5;

/** Who owns the number of pods, and who may take one away. */
export async function proveScaling({ cluster, nodes, pods }: ClusterWorld, report: Report): Promise<void> {
  const manifest = join(cluster.folder, 'first/40-deployment.yaml');
  const replicas = async () => (await cluster.call('GET', DEPLOYMENT)).spec.replicas as number;
  const areReady = (count: number) =>
    until(`${count} pods are ready, and no other is left`, async () => {
      const found = await pods('api');
      return found.length === count && found.every(isReady);
    });

  // Whoever counts the pods for the budget sees a moment later what has changed.
  const isAllowed = () =>
    until('the budget lets one pod go', async () => {
      const path = '/apis/policy/v1/namespaces/hardpoint/poddisruptionbudgets/hardpoint-api';
      return (await cluster.call('GET', path)).status.disruptionsAllowed === 1;
    });

  await report.check(
    'kubectl scale holds over an apply, plain or server-side: the manifest has no say',
    async () => {
      await cluster.kubectl(...NAMESPACE, 'scale', 'deploy/hardpoint-api', `--replicas=${SCALED}`);
      await areReady(SCALED);
      await cluster.kubectl('apply', '-f', manifest);
      await cluster.kubectl('apply', '--server-side', '--force-conflicts', '-f', manifest);
      expect((await replicas()) === SCALED, `${await replicas()} replicas`);
      await cluster.kubectl(...NAMESPACE, 'rollout', 'status', 'deploy/hardpoint-api', '--timeout=120s');
      return `${SCALED} before and after`;
    },
  );
  await report.check('HPA brings back what is below its least number', async () => {
    await cluster.kubectl(...NAMESPACE, 'scale', 'deploy/hardpoint-api', '--replicas=1');
    await until('HPA has set replicas', async () => (await replicas()) === 3);
    await areReady(3);
  });
  await report.check('the disruption budget lets one pod go, and not another at once', async () => {
    const watch = watchRollout(nodes);
    const [first, second] = (await pods('api')).map(({ metadata }) => metadata.name);
    await isAllowed();
    await evict(first ?? '');
    const refused = await evict(second ?? '').catch((error: Error) => error.message);
    expect(typeof refused === 'string' && refused.includes('disruption budget'), JSON.stringify(refused));
    await areReady(3);
    await isAllowed();
    await evict(second ?? '');
    await areReady(3);
    return watch.end(2);
  });

  function evict(name: string): Promise<unknown> {
    const eviction = {
      apiVersion: 'policy/v1',
      kind: 'Eviction',
      metadata: { name, namespace: 'hardpoint' },
    };
    return cluster.call('POST', `/api/v1/namespaces/hardpoint/pods/${name}/eviction`, eviction);
  }
}
