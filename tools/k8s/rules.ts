import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { repositoryDir } from '../../test/support/servers.ts';
import { MANIFESTS } from './manifests.ts';
import { isEntry } from '../../src/cli/environment.ts';

const FILE = join(MANIFESTS, 'optional/prometheusrule.yaml');
const RULES = join(repositoryDir, 'prometheus/rules');
const MADE = '# Made by `npm run k8s:rules` from here on.\n';

/** The manifest with one object for each file of prometheus/rules below its line `Made by`. */
export function withRules(manifest: string): string {
  const [head] = manifest.split(MADE);
  return `${head}${MADE}${readdirSync(RULES).toSorted().map(toManifest).join('')}`;
}

function toManifest(file: string): string {
  const [, groups = ''] = readFileSync(join(RULES, file), 'utf8').split(/^groups:\n/m);
  return `---
# prometheus/rules/${file}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: hardpoint-${file.replace('.yml', '')}
  namespace: hardpoint
  labels: { app.kubernetes.io/name: hardpoint, app.kubernetes.io/part-of: hardpoint }
spec:
  groups:
${groups.trimEnd().replace(/^(?=.)/gm, '  ')}
`;
}

/** `npm run k8s:rules`: so that the Prometheus operator is told the same as the Prometheus of compose.yaml. */
function writeRules(): void {
  writeFileSync(FILE, withRules(readFileSync(FILE, 'utf8')));
}

if (isEntry(import.meta.url)) writeRules();
