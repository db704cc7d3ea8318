import { isUtf8 } from 'node:buffer';
import { spawnSync } from 'node:child_process';
import { lstatSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';

/** One file as it is to be. */
export interface Change {
  path: string;
  /** Undefined when it goes. */
  newPath: string | undefined;
  /** Undefined when its content stays. */
  newText: string | undefined;
}

const NOT_OURS = new Set([
  'node_modules',
  'dist',
  '.git',
  '.tap',
  '.hardpoint',
  '.env',
  'secrets',
  'coverage',
]);

/** Path and text of every file of the project; text is undefined for what is no text. */
export function readProject(folder: string): Map<string, string | undefined> {
  const paths = (listByGit(folder) ?? listByWalk(folder)).toSorted();
  return new Map(paths.map((path) => [path, readText(join(folder, path))]));
}

/** What git would lose track of; empty in a clean tree, and in a folder that git does not know. */
export function listUncommitted(folder: string): string[] {
  if (!listByGit(folder)) return [];
  return git(folder, 'status', '--porcelain', '--', '.').split('\n').filter(Boolean);
}

/** @throws Error that says how far it came and how to go back */
export function writeChanges(folder: string, changes: Change[]): void {
  let done = 0;
  try {
    for (const change of changes) {
      write(folder, change);
      done += 1;
    }
  } catch (cause) {
    const back = 'Bring the old state back ("git restore . && git clean -i", or unpack it anew).';
    const message = `Stopped after ${done} of ${changes.length} files: ${(cause as Error).message}. ${back}`;
    throw new Error(message, { cause });
  }
}

function write(folder: string, { path, newPath, newText }: Change): void {
  const from = join(folder, path);
  if (newPath === undefined) rmSync(from);
  else {
    // In place, so that the mode stays.
    if (newText !== undefined) writeFileSync(from, newText);
    if (newPath === path) return;
    mkdirSync(dirname(join(folder, newPath)), { recursive: true });
    renameSync(from, join(folder, newPath));
  }
  for (let left = dirname(from); left !== folder && readdirSync(left).length === 0; left = dirname(left)) {
    rmSync(left, { recursive: true });
  }
}

/** Undefined when this folder is not a git tree of its own, such as an unpacked archive inside of another. */
function listByGit(folder: string): string[] | undefined {
  const listed = git(folder, 'ls-files', '-z', '--cached', '--others', '--exclude-standard').split('\0');
  const present = (path: string) => path !== '' && lstatSync(join(folder, path), { throwIfNoEntry: false });
  return listed.includes('package.json') ? [...new Set(listed)].filter(present) : undefined;
}

function git(folder: string, ...args: string[]): string {
  const { status, stdout } = spawnSync('git', args, { cwd: folder, encoding: 'utf8', maxBuffer: 2 ** 26 });
  return status === 0 ? stdout : '';
}

function listByWalk(folder: string, below = folder): string[] {
  return readdirSync(below, { withFileTypes: true }).flatMap((entry) => {
    const path = join(below, entry.name);
    if (NOT_OURS.has(entry.name)) return [];
    return entry.isDirectory() ? listByWalk(folder, path) : [relative(folder, path).split(sep).join('/')];
  });
}

function readText(file: string): string | undefined {
  if (!lstatSync(file).isFile()) return undefined;
  const bytes = readFileSync(file);
  return bytes.includes(0) || !isUtf8(bytes) ? undefined : bytes.toString('utf8');
}
