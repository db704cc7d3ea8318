import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { parse, parseAllDocuments } from 'yaml';
import { loadConfig } from '../../src/config/config.ts';
import { repositoryDir } from './servers.ts';

export interface Container {
  name: string;
  image: string;
  imagePullPolicy?: string;
  command?: string[];
  args?: string[];
  env?: { name: string; value?: string; valueFrom?: { secretKeyRef?: { name: string; key: string } } }[];
  envFrom?: { configMapRef: { name: string } }[];
  ports?: { name: string; containerPort: number }[];
  securityContext: { runAsUser: number; runAsGroup: number };
  resources: { requests: Record<string, string>; limits: Record<string, string> };
  volumeMounts: { name: string; mountPath: string; readOnly?: boolean }[];
  lifecycle?: { preStop: { sleep: { seconds: number } } };
  startupProbe?: Probe;
  livenessProbe?: Probe;
  readinessProbe?: Probe;
}

export interface Probe {
  httpGet: { path: string; port: string };
  periodSeconds: number;
  timeoutSeconds: number;
  failureThreshold: number;
}

export interface PodSpec {
  serviceAccountName: string;
  automountServiceAccountToken: boolean;
  enableServiceLinks: boolean;
  restartPolicy?: string;
  terminationGracePeriodSeconds?: number;
  securityContext: object;
  initContainers?: Container[];
  containers: Container[];
  volumes: {
    name: string;
    secret?: { secretName: string };
    configMap?: { name: string; items?: { key: string; path: string }[] };
    emptyDir?: { sizeLimit?: string };
  }[];
}

export interface Manifest {
  kind: string;
  apiVersion: string;
  metadata: { name: string; namespace?: string; labels: Record<string, string> };
  data?: Record<string, string>;
  stringData?: Record<string, string>;
  spec: Record<string, any>;
}

const folder = join(repositoryDir, 'k8s');

/** The files of k8s/ in the order in which kubectl applies them. */
export const manifests = readdirSync(folder)
  .filter((name) => name.endsWith('.yaml'))
  .map((file) => ({ file, text: readFileSync(join(folder, file), 'utf8') }));

export const objects = manifests.map(({ text }) => parse(text) as Manifest);

/** Those of k8s/optional, by their file. */
export const optional = Object.fromEntries(
  readdirSync(join(folder, 'optional')).map((file) => {
    const text = readFileSync(join(folder, 'optional', file), 'utf8');
    return [file, parseAllDocuments(text).map((document) => document.toJS() as Manifest)];
  }),
);

/** @throws Error when there is none */
export function find(kind: string, name = '', among = objects): Manifest {
  const found = among.find((each) => each.kind === kind && each.metadata.name.includes(name));
  if (!found) throw new Error(`no ${kind} ${name}`);
  return found;
}

export function podsOf({ kind, spec }: Manifest): PodSpec[] {
  if (kind === 'CronJob') return [spec.jobTemplate.spec.template.spec];
  return ['Deployment', 'Job', 'StatefulSet'].includes(kind) ? [spec.template.spec] : [];
}

export function containersOf(pod: PodSpec): Container[] {
  return [...(pod.initContainers ?? []), ...pod.containers];
}

export const deployment = find('Deployment');
export const [pod] = podsOf(deployment) as [PodSpec];
export const [api] = pod.containers as [Container];

/** What the pods of the Deployment run with. */
export const { data: values = {} } = find('ConfigMap');
export const { config } = loadConfig({
  ...values,
  DATABASE_URL: 'postgres://app:only-for-tests@db.internal/app?sslmode=verify-full',
  API_KEY_SECRET: 'only-for-tests-8b1f0c6d2e9a4753-51f6',
  SECRET_KEY: 'only-for-tests-8b1f0c6d2e9a4753-51f7',
});
