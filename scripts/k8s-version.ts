import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const REPOSITORY = fileURLToPath(new URL('../', import.meta.url));
const FOLDER = `${REPOSITORY}k8s/`;

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
  const { version } = JSON.parse(readFileSync(`${REPOSITORY}package.json`, 'utf8')) as { version: string };
  for (const name of readdirSync(FOLDER).filter((each) => each.endsWith('.yaml'))) {
    const text = readFileSync(FOLDER + name, 'utf8');
    const changed = withVersion(text, version);
    if (changed === text) continue;
    writeFileSync(FOLDER + name, changed);
    console.log(`${name}: ${version}`);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) writeVersion();
