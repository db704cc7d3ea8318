import { setTimeout as delay } from 'node:timers/promises';
import type { KubeObject } from './cluster/cluster.ts';
import { findEndpoints } from './load.ts';
import { VERSION } from '../../tools/k8s/manifests.ts';
import { isReady, nodesOf } from './rollout-watch.ts';
import type { ClusterWorld } from './environment.ts';
import { expect, until, type Report } from '../stack/report.ts';

const JOB = `hardpoint-migrate-${VERSION.replaceAll('.', '-')}`;
const JOB_PATH = `/apis/batch/v1/namespaces/hardpoint/jobs/${JOB}`;
const STILL_MS = 2_000;

/** Everything was applied at once, and begins in the order that is needed: secrets, schema, service. */
export async function proveStart(world: ClusterWorld, report: Report): Promise<void> {
  const { cluster, nodes } = world;
  const logOf = (name: string) => nodes.find(name)?.log() ?? '';

  await report.check('no container begins before its secrets are there', async () => {
    await until('three pods have a node', async () => {
      return (await world.pods('api')).filter(({ spec }) => spec.nodeName).length === 3;
    });
    await delay(STILL_MS);
    const pods = [...(await world.pods('api')), ...(await world.pods('migrate'))];
    expect(pods.length === 4 && pods.every(({ status }) => status.phase === 'Pending'), 'a pod has begun');
  });

  await report.check('the commands of secret.example.yaml make the secrets', async () => {
    return world.makeSecrets();
  });

  await report.check('the pods wait until the Job has migrated', async () => {
    const pods = await world.pods('api');
    await until('every pod waits for the schema', async () => {
      return pods.every(({ metadata }) => logOf(metadata.name).includes('Waiting for 0001_'));
    });
    await delay(STILL_MS);
    const begun = (await world.pods('api')).filter(({ status }) => status.phase !== 'Pending');
    expect(begun.length === 0, `${begun.length} pods did not wait`);
    const [init] = (pods[0] as KubeObject).spec.initContainers as [{ image: string; args: string[] }];
    const job = await cluster.call('GET', JOB_PATH);
    const [migrate] = job.spec.template.spec.containers as [{ image: string }];
    expect(init.image === migrate.image, `${init.image} waits for ${migrate.image}`);
    expect(init.args.slice(0, 2).join(' ') === 'dist/cli/migrate.js wait', init.args.join(' '));
    return `${init.args.join(' ')}: "${logOf(pods[0]?.metadata.name ?? '').trim()}"`;
  });

  await report.check('the Job migrates as the role migrator, and the service becomes available', async () => {
    world.held.clear();
    await until('the Job is complete', async () => {
      const { conditions = [] } = (await cluster.call('GET', JOB_PATH)).status;
      return conditions.some(({ type }: { type: string }) => type === 'Complete');
    });
    await cluster.kubectl('-n', 'hardpoint', 'rollout', 'status', 'deploy/hardpoint-api', '--timeout=90s');
    await cluster.kubectl('-n', 'hardpoint', 'wait', '--for=condition=Available', 'deploy/hardpoint-api');
  });

  await report.check('pods are spread over zones and nodes, and both Services lead to them', async () => {
    const pods = await world.pods('api');
    expect(
      pods.length === 3 && pods.every(isReady),
      `${pods.filter(isReady).length} of ${pods.length} ready`,
    );
    const names = nodesOf(pods);
    expect(names.length === 3, `on ${names.join(', ')}`);
    const addresses = pods.map(({ status }) => status.podIP as string).toSorted();
    for (const service of ['hardpoint-api', 'hardpoint-metrics']) {
      const found = await findEndpoints(cluster, service);
      expect(found.toSorted().join() === addresses.join(), `${service}: ${found.join(', ')}`);
    }
    for (const address of addresses) {
      const response = await fetch(`http://127.0.0.1:${nodes.portOf(address, 'metrics')}/metrics`);
      expect((await response.text()).includes('api_requests_total'), `${address} has no metrics`);
    }
    return names.join(', ');
  });
}
