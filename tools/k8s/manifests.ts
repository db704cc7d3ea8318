import { cpSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import { repositoryDir } from '../../test/support/servers.ts';
import type { KubeObject } from '../../proofs/kubernetes/cluster/cluster.ts';

/** Where the manifests lie. */
export const MANIFESTS = join(repositoryDir, 'k8s');

/** Of this release. */
export const { version: VERSION } = JSON.parse(readFileSync(join(repositoryDir, 'package.json'), 'utf8')) as {
  version: string;
};

/** The objects of a file, or of all files of a folder in the order in which kubectl applies them. */
export function readObjects(path: string): KubeObject[] {
  const files = path.endsWith('.yaml')
    ? [path]
    : readdirSync(path)
        .filter((name) => name.endsWith('.yaml'))
        .toSorted()
        .map((name) => join(path, name));
  return files
    .flatMap((file) => parseAllDocuments(readFileSync(file, 'utf8')))
    .map((document) => document.toJS() as KubeObject);
}

/** A copy of the manifests that a cluster's owner would make, each file with what `edit` makes of it. */
export function copyManifests(to: string, edit: (text: string, name: string) => string): string {
  mkdirSync(to, { recursive: true });
  for (const name of readdirSync(MANIFESTS).filter((each) => each.endsWith('.yaml'))) {
    writeFileSync(join(to, name), edit(readFileSync(join(MANIFESTS, name), 'utf8'), name));
  }
  cpSync(join(MANIFESTS, 'optional'), join(to, 'optional'), { recursive: true });
  return to;
}

/** Where the API server has an object. */
export function pathOf({ apiVersion, kind, metadata: { name, namespace } }: KubeObject): string {
  const root = apiVersion.includes('/') ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
  const plural = `${kind.toLowerCase().replace(/y$/, 'ie').replace(/ss$/, 'sse')}s`;
  return `${root}${namespace ? `/namespaces/${namespace}` : ''}/${plural}/${name}`;
}
