import { existsSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { format, getFileInfo, resolveConfig } from 'prettier';
import { isEntry } from '../../src/cli/environment.ts';
import { readArguments } from './arguments.ts';
import { listUncommitted, readProject, writeChanges, type Change } from './files.ts';
import { findTraces, rename, spellNames, type Names } from './names.ts';
import { findMentions, planRemoval, readManifest, withoutRemoved } from './removal.ts';

const STATE_DIR = '.hardpoint';

/**
 * Makes a project of its own out of the template in `folder`: renames it everywhere, in every spelling, and takes
 * away what only the template needs. Everything is computed and checked before the first file is written.
 * @returns what was done and what is left to do, in lines. @throws Error with a message for the user
 */
export async function initProject(folder: string, args: string[]): Promise<string[]> {
  const { name, prefix, withoutExample, force } = readArguments(args);
  const files = readProject(folder);
  refuseUnfit(folder, files.get('package.json'), name, force);

  const names = spellNames(name, prefix);
  const removal = planRemoval(files, withoutExample);
  const changes: Change[] = [];
  for (const [path, text] of files) {
    if (removal.files.has(path)) {
      changes.push({ path, newPath: undefined, newText: undefined });
      continue;
    }
    const newPath = rename(path, path, names);
    const newText = text && rename(withoutRemoved(path, text, removal), path, names);
    const changed = newText !== undefined && newText !== text;
    if (!changed && newPath === path) continue;
    changes.push({ path, newPath, newText: changed ? await reformat(folder, path, newText) : undefined });
  }
  const after = resultOf(files, changes);
  refuseTraces(after, names);
  writeChanges(folder, changes);
  moveState(join(folder, STATE_DIR), join(folder, `.${name}`));

  const rewritten = changes.filter(({ newText }) => newText !== undefined).length;
  const moved = changes.filter(({ path, newPath }) => newPath !== undefined && newPath !== path);
  const mentions = [...after].map(([path, text]) => ({ path, lines: findMentions(text, removal) }));
  return [
    `${names.title}: ${rewritten} files changed, ${moved.length} renamed, ${removal.files.size} removed.`,
    `API keys begin with ${prefix}_, Redis keys with ${prefix}:, the database is ${names.snake}.`,
    ...moved.map(({ path, newPath }) => `  renamed ${path} -> ${newPath}`),
    ...[...removal.files].map((path) => `  removed ${path}`),
    ...mentions
      .filter(({ lines }) => lines.length > 0)
      .map(
        ({ path, lines }) => `  look at ${path}: it speaks of what was removed, in line ${lines.join(', ')}`,
      ),
    'Next:',
    '  - Look through it: git diff. LICENSE names the holder of the copyright, package.json describes the service.',
    ...(existsSync(join(folder, '.env'))
      ? ['  - .env is yours and was left alone: rename in it yourself.']
      : []),
    '  - npm run check',
    `  - git add -A && git commit -m "Start ${name}"`,
    '  - npm run dev',
  ];
}

function refuseUnfit(folder: string, manifest: string | undefined, name: string, force: boolean): void {
  const { name: current, dependencies, devDependencies } = readManifest(manifest);
  if (current === undefined)
    throw new Error(`No package.json in ${folder}: run this at the root of the clone.`);
  if (current !== 'hardpoint') throw new Error(`This is ${current} already: it can be renamed only once.`);
  if (Object.hasOwn({ ...dependencies, ...devDependencies }, name)) {
    throw new Error(`"${name}" is a package that this one needs, and npm refuses that. Choose another name.`);
  }
  for (const file of ['dev.pid', 'test-keeper.pid'].map((each) => join(folder, STATE_DIR, each))) {
    if (existsSync(file) && isAlive(Number(readFileSync(file, 'utf8')))) {
      throw new Error(
        `"npm run dev" or a test run works in ${STATE_DIR} at this moment (${file}): end it first.`,
      );
    }
  }
  const uncommitted = force ? [] : listUncommitted(folder);
  if (uncommitted.length > 0) {
    throw new Error(
      `There are ${uncommitted.length} uncommitted changes, which a failure could mix with its own:
${uncommitted.slice(0, 5).join('\n')}
Commit them, or put them away (git stash -u), or add --force.`,
    );
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** A longer name can make a line too long, or a table of Markdown uneven. */
async function reformat(folder: string, path: string, text: string): Promise<string> {
  const file = join(folder, path);
  const ignorePath = ['.gitignore', '.prettierignore'].map((name) => join(folder, name));
  const { ignored, inferredParser } = await getFileInfo(file, { ignorePath });
  if (ignored || inferredParser === null) return text;
  const options = await resolveConfig(file, { editorconfig: true });
  return format(text, { ...options, filepath: file }).catch((cause: unknown) => {
    throw new Error(`${path} cannot be formatted after the renaming: ${String(cause)}`, { cause });
  });
}

/** Path and text of every text file as they will be. */
function resultOf(files: Map<string, string | undefined>, changes: Change[]): Map<string, string> {
  const changed = new Map(changes.map((change) => [change.path, change]));
  const after = new Map<string, string>();
  for (const [path, text = ''] of files) {
    const { newPath, newText } = changed.get(path) ?? { newPath: path, newText: undefined };
    if (newPath === undefined) continue;
    if (after.has(newPath)) throw new Error(`${path} would take the place of ${newPath}.`);
    after.set(newPath, newText ?? text);
  }
  return after;
}

function refuseTraces(after: Map<string, string>, names: Names): void {
  const traces = [...after].flatMap(([path, text]) => [
    ...(findTraces(path, '', names).length > 0 ? [path] : []),
    ...findTraces(text, path, names).map((line) => `${path}:${line}`),
  ]);
  if (traces.length === 0) return;
  throw new Error(
    `The old name would stay in ${traces.length} places. Nothing was written; mend these first:\n${traces.join('\n')}`,
  );
}

/** So that what `npm run dev` kept stays out of git, which ignores the new name only. */
function moveState(from: string, to: string): void {
  if (existsSync(from) && !existsSync(to)) renameSync(from, to);
}

if (isEntry(import.meta.url)) {
  try {
    console.log((await initProject(process.cwd(), process.argv.slice(2))).join('\n'));
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 1;
  }
}
