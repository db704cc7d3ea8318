import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { MANIFESTS } from './manifests.ts';
import { isEntry } from '../../src/cli/environment.ts';

const ANNOTATION = /(?<=checksum\/config: )\S+/;

/** Of the data of the ConfigMap, however it is written. */
export function configChecksum(configMap: string): string {
  const { data } = parse(configMap) as { data: Record<string, string> };
  const entries = Object.entries(data).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return createHash('sha256').update(JSON.stringify(entries)).digest('hex');
}

/** `npm run k8s:checksum`: writes the checksum of the configuration into the Deployment, so that its change rolls the pods. */
function writeChecksum(): void {
  const checksum = configChecksum(readFileSync(join(MANIFESTS, '15-configmap.yaml'), 'utf8'));
  const file = join(MANIFESTS, '40-deployment.yaml');
  writeFileSync(file, readFileSync(file, 'utf8').replace(ANNOTATION, checksum));
  console.log(`checksum/config: ${checksum}`);
}

if (isEntry(import.meta.url)) writeChecksum();
