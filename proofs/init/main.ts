import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFileSync,
  chmodSync,
  cpSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

// `npm run check:init`: that a project made from the template is whole, with and without the example. Each is made
// from a copy of this folder as it stands, and everything that must hold here must hold there.

const repository = fileURLToPath(new URL('../../', import.meta.url));
let running: ChildProcess | undefined;
let failures = 0;

const temporary = mkdtempSync(join(tmpdir(), 'check-init-'));
// The account that the embedded Postgres runs as must be able to enter.
chmodSync(temporary, 0o755);
// What a project leaves in its temporary folder goes with it.
const env = { ...process.env, TMPDIR: join(temporary, 'tmp') };
mkdirSync(env.TMPDIR);
chmodSync(env.TMPDIR, 0o1777);
process.once('exit', () => rmSync(temporary, { recursive: true, force: true, maxRetries: 5 }));
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => {
    running?.kill(signal);
    process.exit(1);
  });
}

// Prefixes of two and of four letters: nothing may count on the length.
await checkProject('blue-heron', []);
await checkProject('to-be-or-not', ['--without-example']);
console.log(failures === 0 ? '\nok: both projects are whole' : `\nFAILED: ${failures} steps`);
process.exitCode = failures === 0 ? 0 : 1;

async function checkProject(name: string, options: string[]): Promise<void> {
  console.log(`\n== npm run init -- ${[name, ...options].join(' ')}`);
  const folder = join(temporary, name);
  await step('copy', () => copyRepository(folder));
  await step('npm run init', () => npm(folder, 'run', 'init', '--', name, ...options));
  await step('nothing names the template', async () => findNames(await listFiles(folder), folder));
  if (options.length > 0) {
    await step('nothing names the example', async () => findExample(await listFiles(folder), folder));
  }
  for (const script of ['typecheck', 'lint', 'format:check']) {
    await step(`npm run ${script}`, () => npm(folder, 'run', script));
  }
  await step('npm test', () => test(folder));
}

/**
 * What fails is run again, alone: a file that renaming broke fails then as well, and one that was only late on a
 * busy machine is for `npm test` of the template to tell.
 */
async function test(folder: string): Promise<void> {
  try {
    await npm(folder, 'test');
  } catch (error) {
    const failed = [...String((error as Error).cause).matchAll(/^not ok \d+ - (test\/\S+)/gm)];
    if (failed.length === 0) throw error;
    console.log(`${(error as Error).message}\n-- again, alone`);
    await run(
      folder,
      process.execPath,
      'node_modules/.bin/tap',
      '--jobs=1',
      ...failed.map(([, file = '']) => file),
    );
  }
}

async function step(name: string, work: () => Promise<unknown>): Promise<void> {
  const from = performance.now();
  const seconds = () => `(${((performance.now() - from) / 1000).toFixed(1)} s)`;
  try {
    await work();
    console.log(`-- ok: ${name} ${seconds()}`);
  } catch (error) {
    failures += 1;
    console.log(`${(error as Error).message}\n-- FAILED: ${name} ${seconds()}`);
  }
}

/** As a clone with one commit, which `npm run init` wants. */
async function copyRepository(folder: string): Promise<string> {
  for (const path of await listFiles(repository)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    cpSync(join(repository, path), join(folder, path), { verbatimSymlinks: true });
  }
  symlinkSync(join(repository, 'node_modules'), join(folder, 'node_modules'));
  const git = (...args: string[]) => run(folder, 'git', ...args);
  await git('init', '--quiet');
  // .gitignore means folders, and this one is a link.
  appendFileSync(join(folder, '.git/info/exclude'), 'node_modules\n');
  await git('add', '--all');
  const author = ['-c', 'user.name=check', '-c', 'user.email=check@localhost', '-c', 'commit.gpgsign=false'];
  return git(...author, 'commit', '--quiet', '--message', 'Copy');
}

async function listFiles(folder: string): Promise<string[]> {
  const listed = await run(folder, 'git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard');
  const paths = [...new Set(listed.split('\0'))].filter(Boolean);
  return paths.filter((path) => lstatSync(join(folder, path), { throwIfNoEntry: false })?.isFile());
}

/** With a rule of its own, wider than the one of `npm run init`. */
async function findNames(paths: string[], folder: string): Promise<void> {
  const name = /hard[^a-z0-9]?point/i;
  const prefix = /(^|[^a-z0-9])hp(_[a-z<$]|[:'"`-])/i;
  // Bytes of a picture and npm's hashes hold any two letters.
  const byChance = (path: string, line: string) => path.endsWith('package-lock.json') || line.includes('\0');
  refuse(paths, folder, (path, line) => name.test(line) || (prefix.test(line) && !byChance(path, line)));
}

async function findExample(paths: string[], folder: string): Promise<void> {
  const example =
    /features\/orders|\/orders\b|\borders_|_orders\b|\b(from|into|update|table) orders\b|newOrder/i;
  refuse(paths, folder, (_, line) => example.test(line));
}

function refuse(paths: string[], folder: string, isBad: (path: string, line: string) => boolean): void {
  const found = paths.flatMap((path) => {
    const lines = [path, ...readFileSync(join(folder, path), 'latin1').split('\n')];
    return lines.flatMap((line, number) => (isBad(path, line) ? [`${path}:${number} ${line.trim()}`] : []));
  });
  if (found.length > 0) throw new Error(found.join('\n'));
}

function npm(folder: string, ...args: string[]): Promise<string> {
  return run(folder, process.platform === 'win32' ? 'npm.cmd' : 'npm', ...args);
}

/** Its output. @throws Error with what matters of it when it fails */
async function run(cwd: string, command: string, ...args: string[]): Promise<string> {
  const child = spawn(command, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
  running = child;
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  }
  const [code] = await once(child, 'close');
  if (code === 0) return output;
  const message = `${[command, ...args].join(' ')} ended with ${code}:\n${whyOf(output)}\n${output.slice(-2000)}`;
  throw new Error(message, { cause: output });
}

/** Failures of tests, which may stand thousands of lines before the end. */
function whyOf(output: string): string {
  const found = output.match(/^ *not ok .*(?:\n *(?!(?:not )?ok ).*){0,30}/gm) ?? [];
  return found.slice(0, 10).join('\n');
}
