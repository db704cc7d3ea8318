import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Cluster, KubeObject } from './cluster.ts';
import type { Probe } from '../probe.ts';

/** As much of a container's spec as is played. */
export interface Container {
  name: string;
  image: string;
  args?: string[];
  envFrom?: { configMapRef: { name: string } }[];
  env?: { name: string; value?: string }[];
  ports?: { name: string; containerPort: number }[];
  volumeMounts?: { name: string; mountPath: string }[];
  lifecycle?: { preStop?: { sleep: { seconds: number } } };
  startupProbe?: Probe;
  livenessProbe?: Probe;
  readinessProbe?: Probe;
}

/**
 * The variables of a container. The files of its secrets are written below `home`, and variables that name one of
 * them lead there. @throws Error while the secret or the ConfigMap is missing
 */
export async function readEnvironment(
  cluster: Cluster,
  pod: KubeObject,
  { env = [], envFrom = [], volumeMounts = [] }: Container,
  home: string,
): Promise<Record<string, string>> {
  const read = (kind: string, name: string) =>
    cluster.call<{ data: Record<string, string> }>(
      'GET',
      `/api/v1/namespaces/${pod.metadata.namespace}/${kind}/${name}`,
    );
  const values: Record<string, string> = {};
  for (const { configMapRef } of envFrom) {
    Object.assign(values, (await read('configmaps', configMapRef.name)).data);
  }
  for (const { name, value = '' } of env) values[name] = value;
  Object.assign(values, { API_HOST: '127.0.0.1', METRICS_HOST: '127.0.0.1' });
  const given = Object.entries(values);
  for (const { name, mountPath } of volumeMounts) {
    const folder = join(home, name);
    mkdirSync(folder, { recursive: true });
    const volume = pod.spec.volumes.find((each: { name: string }) => each.name === name);
    const files = volume?.secret ? (await read('secrets', volume.secret.secretName)).data : {};
    for (const [file, value] of Object.entries(files)) {
      writeFileSync(join(folder, file), Buffer.from(value, 'base64'), { mode: 0o600 });
    }
    for (const [key, value] of given) {
      if (value.startsWith(`${mountPath}/`)) values[key] = join(folder, value.slice(mountPath.length));
    }
  }
  return values;
}
