import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { configChecksum } from '../../tools/k8s/checksum.ts';
import type { KubeObject } from './cluster/cluster.ts';
import { expectUnchanged } from './cluster/apply.ts';
import { startClusterLoad } from './load.ts';
import { copyManifests, VERSION } from '../../tools/k8s/manifests.ts';
import { isReady, nodesOf, watchRollout } from './rollout-watch.ts';
import { withVersion } from '../../tools/k8s/version.ts';
import { NEXT_VERSION, type ClusterWorld } from './environment.ts';
import { expect, until, type Report } from '../stack/report.ts';

const DEPLOYMENT = '/apis/apps/v1/namespaces/hardpoint/deployments/hardpoint-api';
const WANTED = 3;
const STILL_MS = 3_000;

/** What a cluster's owner does to a service that runs: change its configuration, upgrade it, take that back. */
export async function proveRollouts(world: ClusterWorld, report: Report): Promise<void> {
  const { cluster, nodes } = world;
  const kubectl = (...args: string[]) => cluster.kubectl('-n', 'hardpoint', ...args);
  const rolledOut = () => kubectl('rollout', 'status', 'deploy/hardpoint-api', '--timeout=120s');
  const generation = async () => (await cluster.call('GET', DEPLOYMENT)).metadata.generation;
  const staying = async () => (await world.pods('api')).filter(({ metadata }) => !metadata.deletionTimestamp);
  const serving = async () => (await staying()).filter(isReady);
  const imagesOf = (pods: KubeObject[]) =>
    [...new Set(pods.map(({ spec }) => spec.containers[0].image.replace(/^.*:/, '') as string))]
      .toSorted()
      .join();

  const first = copyManifests(join(cluster.folder, 'first'), withLocalProxy());
  const edit = withLocalProxy();
  const next = copyManifests(join(cluster.folder, 'next'), (text, name) =>
    withVersion(edit(text, name), NEXT_VERSION),
  );

  await report.check('a changed ConfigMap rolls the pods, one at a time', async () => {
    const watch = watchRollout(nodes);
    await cluster.kubectl('apply', '-f', first);
    await rolledOut();
    return watch.end(WANTED);
  });
  await report.check('an unchanged one does not', async () => {
    const before = await generation();
    await cluster.kubectl('apply', '-f', first);
    await delay(STILL_MS);
    const after = await generation();
    expect(before === after, `generation ${before} became ${after}`);
    return `generation ${after}`;
  });

  const load = startClusterLoad(cluster, nodes, await world.createKey());
  const withoutFailure = (from: { sent: number }): string => {
    expect(load.counts.failed === 0, `${load.counts.failed} failed, the first ${load.firstFailure()}`);
    return `${load.counts.sent - from.sent} requests, none failed`;
  };
  try {
    await report.check('an upgrade: the old pods serve while the Job of the new release waits', async () => {
      const from = { ...load.counts };
      world.held.add('migrate');
      await cluster.kubectl('apply', '-f', next);
      await until('a new pod waits for the schema', async () =>
        (await world.pods('api')).some(({ metadata }) =>
          nodes.find(metadata.name)?.log().includes('next_release'),
        ),
      );
      await delay(STILL_MS);
      const ready = await serving();
      const waiting = (await staying()).filter((pod) => !isReady(pod));
      expect(imagesOf(ready) === VERSION && ready.length === WANTED, `${ready.length} of ${imagesOf(ready)}`);
      expect(imagesOf(waiting) === NEXT_VERSION && waiting.length === 1, `${waiting.length} wait`);
      return `3 of ${VERSION} ready, 1 of ${NEXT_VERSION} waits; ${withoutFailure(from)}`;
    });
    await report.check('the upgrade goes on when the Job is done, and loses no request', async () => {
      const from = { ...load.counts };
      const watch = watchRollout(nodes);
      world.held.clear();
      await rolledOut();
      expect(imagesOf(await serving()) === NEXT_VERSION, 'an old pod is ready');
      expect(nodesOf(await serving()).length === WANTED, `on ${nodesOf(await serving()).join(', ')}`);
      return `${watch.end(WANTED)}; ${withoutFailure(from)}`;
    });
    await report.check(
      'the Job of the old release stays as it was, applying again changes nothing',
      async () => {
        expectUnchanged(await cluster.kubectl('apply', '-f', next));
        return kubectl('get', 'jobs', '-o', 'jsonpath={.items[*].metadata.name}');
      },
    );
    await report.check('kubectl rollout undo: the old release runs on the newer schema', async () => {
      const from = { ...load.counts };
      const watch = watchRollout(nodes);
      await kubectl('rollout', 'undo', 'deploy/hardpoint-api');
      await rolledOut();
      expect(imagesOf(await serving()) === VERSION, 'a new pod is ready');
      return `${watch.end(WANTED)}; ${withoutFailure(from)}`;
    });
    await report.check('a release whose image is missing takes nothing away', async () => {
      const from = { ...load.counts };
      await kubectl('set', 'image', 'deploy/hardpoint-api', 'api=ghcr.io/acme/hardpoint:9.9.9');
      await until('the new pod has a node', async () =>
        (await world.pods('api')).some(
          ({ spec }) => spec.nodeName && spec.containers[0].image.endsWith(':9.9.9'),
        ),
      );
      await delay(STILL_MS);
      const ready = await serving();
      expect(imagesOf(ready) === VERSION && ready.length === WANTED, `${ready.length} of ${imagesOf(ready)}`);
      await kubectl('rollout', 'undo', 'deploy/hardpoint-api');
      await rolledOut();
      return withoutFailure(from);
    });
  } finally {
    await load.stop();
  }
}

/** As docs/kubernetes.md tells an owner to: the own network, and the new checksum. */
function withLocalProxy(): (text: string, name: string) => string {
  let checksum = '';
  return (text, name) => {
    if (name.includes('configmap')) {
      const changed = text.replace(/(?<=TRUSTED_PROXIES: ).*/, '127.0.0.0/8');
      checksum = configChecksum(changed);
      return changed;
    }
    return name.includes('deployment') ? text.replace(/(?<=checksum\/config: )\S+/, checksum) : text;
  };
}
