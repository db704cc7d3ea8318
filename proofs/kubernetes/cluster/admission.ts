import type { Cluster, KubeObject } from './cluster.ts';
import { MANIFESTS, readObjects } from '../../../tools/k8s/manifests.ts';
import { expect, type Report } from '../../stack/report.ts';

interface PodSpec {
  securityContext: Record<string, unknown>;
  containers: { securityContext: Record<string, any> }[];
  volumes: object[];
  hostNetwork?: boolean;
  hostPID?: boolean;
}

/** What somebody may do to a pod to make it run, and what the refusal says of it. */
const WEAKENED: Record<string, { says: string; weaken(pod: PodSpec): void }> = {
  privileged: {
    says: 'privileged',
    weaken: inContainer((context) =>
      Object.assign(context, { privileged: true, allowPrivilegeEscalation: true }),
    ),
  },
  root: {
    says: 'runAsUser=0',
    weaken: inContainer((context) => Object.assign(context, { runAsNonRoot: false, runAsUser: 0 })),
  },
  'the network of the node': {
    says: 'host namespaces (hostNetwork=true)',
    weaken: (pod) => void (pod.hostNetwork = true),
  },
  'the processes of the node': {
    says: 'host namespaces (hostPID=true)',
    weaken: (pod) => void (pod.hostPID = true),
  },
  'a capability': {
    says: 'unrestricted capabilities',
    weaken: inContainer((context) => Object.assign(context.capabilities, { add: ['NET_ADMIN'] })),
  },
  escalation: {
    says: 'allowPrivilegeEscalation != false',
    weaken: inContainer((context) => Object.assign(context, { allowPrivilegeEscalation: true })),
  },
  'no seccomp': {
    says: 'seccompProfile',
    weaken: (pod) => void delete pod.securityContext.seccompProfile,
  },
  'a folder of the node': {
    says: 'hostPath',
    weaken: (pod) => void pod.volumes.push({ name: 'host', hostPath: { path: '/' } }),
  },
};

function inContainer(change: (context: Record<string, any>) => unknown) {
  return ({ containers }: PodSpec): void => void change(containers[0]?.securityContext ?? {});
}

/** Pod Security takes every pod of the manifests, and none that was weakened. */
export async function proveAdmission(cluster: Cluster, report: Report): Promise<void> {
  const pods = readObjects(MANIFESTS).flatMap(podsOf);
  const names = pods.map(({ name }) => name).join(', ');
  await report.check('Pod Security restricted accepts every pod', async () => {
    for (const { name, spec } of pods) await tryPod(cluster, name, spec);
    return names;
  });
  for (const [what, { says, weaken }] of Object.entries(WEAKENED)) {
    await report.check(`Pod Security refuses every pod with ${what}`, async () => {
      for (const { name, spec } of pods) {
        const weakened = structuredClone(spec);
        weaken(weakened);
        const answer = await tryPod(cluster, name, weakened).catch((error: Error) => error.message);
        const refused = typeof answer === 'string' && answer.includes('403') && answer.includes(says);
        expect(refused, `${name}: ${JSON.stringify(answer).slice(0, 500)}`);
      }
      return `${pods.length} × "${says}"`;
    });
  }
}

/** The pods of a manifest, by the name of what makes them. */
export function podsOf({ kind, metadata: { name }, spec }: KubeObject): { name: string; spec: PodSpec }[] {
  if (kind === 'CronJob') return [{ name, spec: spec.jobTemplate.spec.template.spec }];
  const makesPods = ['Deployment', 'Job', 'StatefulSet'].includes(kind);
  return makesPods ? [{ name, spec: spec.template.spec }] : [];
}

/** Asks what the API server would say. */
export function tryPod(cluster: Cluster, name: string, spec: PodSpec): Promise<KubeObject> {
  const pod = { apiVersion: 'v1', kind: 'Pod', metadata: { name }, spec };
  return cluster.call('POST', '/api/v1/namespaces/hardpoint/pods?dryRun=All', pod);
}
