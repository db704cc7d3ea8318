import { readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** `npm run size`: how much there is to read, and whether the house keeps its sizes. Ends with 1 where it does not. */
const root = fileURLToPath(new URL('../../', import.meta.url));
const IGNORED = new Set([
  'node_modules',
  'dist',
  '.git',
  '.tap',
  '.hardpoint',
  'package-lock.json',
  'results',
]);

interface Source {
  path: string;
  lines: number;
}

const src = listSources('src');
const tools = listSources('tools');
const folders = [...new Set(src.map(({ path }) => dirname(path)))].toSorted();
const filesOf = (folder: string) => src.filter(({ path }) => dirname(path) === folder);

console.log('Lines  Files  Folder');
for (const folder of folders) {
  const files = filesOf(folder);
  console.log(`${pad(total(files))}  ${pad(files.length)}  ${folder}`);
}
for (const folder of ['tools', 'test', 'proofs', 'scripts', 'docs', 'k8s']) {
  const files = listSources(folder);
  console.log(`${pad(total(files))}  ${pad(files.length)}  ${folder}, all of it`);
}
console.log(`${pad(total(listSources('.')))}  everything but the lock file and the results of the bench\n`);

const largestFolder = Math.max(...folders.map((folder) => filesOf(folder).length));
const bySize = src.map(({ lines }) => lines).toSorted((a, b) => a - b);
const bounds: [what: string, is: number, most: number][] = [
  ['lines in src', total(src), 9_000],
  ['lines in src and tools', total(src) + total(tools), 10_500],
  ['files in a folder of src', largestFolder, 14],
  ['lines of the median file', bySize[bySize.length >> 1] ?? 0, 90],
  ['lines of the largest file', bySize.at(-1) ?? 0, 300],
];
for (const [what, is, most] of bounds) {
  console.log(`${is <= most ? 'ok    ' : 'FAILED'}  ${what}: ${is}, at most ${most}`);
  if (is > most) process.exitCode = 1;
}

function listSources(folder: string): Source[] {
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length))
    .filter((path) => !path.split('/').some((part) => IGNORED.has(part)) && !IGNORED.has(basename(path)))
    .map((path) => ({ path, lines: readFileSync(join(root, path), 'utf8').split('\n').length - 1 }));
}

function total(files: Source[]): number {
  return files.reduce((sum, { lines }) => sum + lines, 0);
}

function pad(count: number): string {
  return String(count).padStart(5);
}
