import { join } from 'node:path';
import type { Cluster } from './cluster.ts';
import { MANIFESTS, pathOf, readObjects } from '../../../tools/k8s/manifests.ts';
import { expect, until, type Report } from '../../stack/report.ts';

/** What controllers write themselves: a second look may find another status there, and with it another version. */
const MANAGED = new Set([
  'Namespace',
  'Deployment',
  'Job',
  'HorizontalPodAutoscaler',
  'PodDisruptionBudget',
  'PersistentVolumeClaim',
]);

const objects = readObjects(MANIFESTS);

/** From an empty cluster in one go, merged by the server; a second time nothing changes. */
export async function proveServerSideApply(cluster: Cluster, report: Report): Promise<void> {
  const apply = () => cluster.kubectl('apply', '--server-side', '-f', MANIFESTS);

  await report.check('server-side apply of k8s/ brings an empty cluster everything', async () => {
    countLines(await apply(), 'serverside-applied', objects.length);
    await untilScaled(cluster);
    return `${objects.length} objects, no warning`;
  });
  await report.check('server-side apply again changes nothing', async () => {
    const before = await snapshot(cluster);
    countLines(await apply(), 'serverside-applied', objects.length);
    await expectSame(cluster, before);
    const difference = await cluster.kubectl('diff', '--server-side', '-f', MANIFESTS);
    expect(difference === '', difference);
    return `${before.size} objects equal, kubectl diff is empty`;
  });
  await report.check('kubectl delete -f k8s/ takes all of it away', async () => {
    await cluster.kubectl('delete', '-f', MANIFESTS, '--wait=false');
    await until('the namespace is gone', async () => {
      return (await cluster.list('/api/v1/namespaces')).every(
        ({ metadata }) => metadata.name !== 'hardpoint',
      );
    });
  });
}

/** The same, merged by kubectl. */
export async function proveApply(cluster: Cluster, report: Report): Promise<void> {
  await report.check('kubectl apply of k8s/ brings an empty cluster everything', async () => {
    countLines(await cluster.kubectl('apply', '-f', MANIFESTS), 'created', objects.length);
    await untilScaled(cluster);
    return `${objects.length} created, no warning`;
  });
  await report.check('kubectl apply again changes nothing', async () => {
    const before = await snapshot(cluster);
    const output = await cluster.kubectl('apply', '-f', MANIFESTS);
    expectUnchanged(output);
    await expectSame(cluster, before);
    return `${output.split('\n').filter((line) => line.endsWith('unchanged')).length} unchanged`;
  });
  await report.check('the example Secret is refused: it holds no value', async () => {
    const file = join(MANIFESTS, 'optional/secret.example.yaml');
    const refused = await cluster.kubectl('apply', '-f', file).catch((error: Error) => error.message);
    const reason = /illegal base64 data/.exec(refused)?.[0];
    const made = await cluster.list('/api/v1/namespaces/hardpoint/secrets');
    expect(reason !== undefined && made.length === 0, refused);
    return reason;
  });
}

/**
 * kubectl sends a disruption budget in any case, because its selector can only be replaced as a whole, and the server
 * finds nothing new in it. @throws Error when it has changed anything else
 */
export function expectUnchanged(output: string): void {
  const lines = output.split('\n').filter((line) => !line.startsWith('poddisruptionbudget.policy/'));
  countLines(lines.join('\n'), 'unchanged', objects.length - 1);
}

function countLines(output: string, word: string, wanted: number): void {
  expect(!/warning/i.test(output), output);
  const lines = output.split('\n');
  expect(lines.length === wanted && lines.every((line) => line.endsWith(` ${word}`)), output);
}

/** HPA has given the Deployment its least number of pods, and its controller has taken note: nothing moves. */
async function untilScaled(cluster: Cluster): Promise<void> {
  await until('HPA has set replicas', async () => {
    const path = '/apis/apps/v1/namespaces/hardpoint/deployments/hardpoint-api';
    const { metadata, spec, status } = await cluster.call('GET', path);
    return spec.replicas === 3 && status.replicas === 3 && status.observedGeneration === metadata.generation;
  });
}

async function expectSame(cluster: Cluster, before: Map<string, string>): Promise<void> {
  const after = await snapshot(cluster);
  for (const [name, text] of before) expect(after.get(name) === text, `${name} has changed`);
}

/** What is wanted of each object; of those that nobody else writes the version as well. */
async function snapshot(cluster: Cluster): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const object of objects) {
    const { status: _, ...wanted } = await cluster.call('GET', pathOf(object));
    const { resourceVersion, managedFields: __, ...metadata } = wanted.metadata as Record<string, unknown>;
    const version = MANAGED.has(object.kind) ? undefined : resourceVersion;
    const name = `${object.kind} ${object.metadata.name}`;
    found.set(name, JSON.stringify({ ...wanted, metadata, version }));
  }
  return found;
}
