import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MANIFESTS, VERSION } from './manifests.ts';
import { isEntry } from '../../src/cli/environment.ts';

const IMAGE = /(?<=\bimage: \S+:)[^\s:/]+$/gm;
const LABEL = /(?<=app\.kubernetes\.io\/version: )\S+/g;
const JOB = /(?<=name: \S+-migrate-)\d\S*/g;

/** A manifest of another release: the tags of its images, its labels, the name of its Job. */
export function withVersion(manifest: string, version: string): string {
  return manifest
    .replace(IMAGE, version)
    .replace(LABEL, version)
    .replace(JOB, version.replace(/[^\da-z]/g, '-'));
}

/** `npm run k8s:version`: writes the version of package.json into the manifests. */
function writeVersion(): void {
  for (const name of readdirSync(MANIFESTS).filter((each) => each.endsWith('.yaml'))) {
    const file = join(MANIFESTS, name);
    const text = readFileSync(file, 'utf8');
    const changed = withVersion(text, VERSION);
    if (changed === text) continue;
    writeFileSync(file, changed);
    console.log(`${name}: ${VERSION}`);
  }
}

if (isEntry(import.meta.url)) writeVersion();
