import { execFile } from 'node:child_process';
import { cpSync, existsSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import { temporaryFolder, writeFiles } from './support/scripts.ts';
import { repositoryDir } from './support/servers.ts';
import { requireTool } from './support/tools.ts';

const root = join(repositoryDir, 'src');
const files = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .map((name) => name.replaceAll('\\', '/'))
  .toSorted();
const sources = new Map(files.map((file) => [file, readFileSync(join(root, file), 'utf8')]));

/** The code without comments: rules are about what runs. */
const code = new Map(
  [...sources].map(([file, text]) => [file, text.replaceAll(/\/\*[\s\S]*?\*\/|(^|\s)\/\/.*$/gm, '')]),
);

const roomOf = (file: string) => (file.split('/')[0] ?? '').replace(/\.ts$/, '');

function importsOf(file: string): { path: string; typeOnly: boolean }[] {
  const found = [...(code.get(file) ?? '').matchAll(/^(?:import|export) ([^;]*?from )?'(\.[^']+)'/gm)];
  const dynamic = [...(code.get(file) ?? '').matchAll(/import\(\s*'(\.[^']+)'/g)];
  return [
    ...found.map(([, head = '', path = '']) => ({ path, typeOnly: head.startsWith('type ') })),
    ...dynamic.map(([, path = '']) => ({ path, typeOnly: false })),
  ].map(({ path, typeOnly }) => ({ path: join(dirname(file), path).replaceAll('\\', '/'), typeOnly }));
}

function offenders(rule: (file: string, text: string) => boolean): string[] {
  return [...code].filter(([file, text]) => rule(file, text)).map(([file]) => file);
}

t.test('the rules of imports find what they forbid', async (t) => {
  const folder = temporaryFolder(t);
  writeFiles(folder, {
    'tsconfig.json': '{}',
    'src/http/health.ts':
      "import type { Key } from '../auth/key.ts';\nexport const health = (key: Key) => key;\n",
    'src/auth/key.ts': "import type { Rest } from './rest.ts';\nexport type Key = Rest | 1;\n",
    'src/auth/rest.ts': "import type { Key } from './key.ts';\nexport type Rest = Key | 2;\n",
    'src/features/a/routes.ts': "import '../b/routes.ts';\nimport '../../config/config.ts';\n",
    'src/features/b/routes.ts': "import '../../../test/x.ts';\n",
    'src/config/config.ts': 'export {};\n',
    'src/attic/x.ts': 'export {};\n',
    'src/main.ts': "import './attic/x.ts';\n",
    'test/x.ts': 'export {};\n',
  });
  const rules = join(repositoryDir, '.dependency-cruiser.mjs');
  const program = join(repositoryDir, 'node_modules/.bin/depcruise');
  const { stdout } = await promisify(execFile)(program, ['--config', rules, '--output-type', 'json', 'src'], {
    cwd: folder,
    maxBuffer: 2 ** 26,
  });
  const found: { from: string; rule: { name: string } }[] = JSON.parse(stdout).summary.violations;
  t.same([...new Set(found.map(({ from, rule }) => `${rule.name}: ${from}`))].toSorted(), [
    'below-features: src/features/a/routes.ts',
    'below-http: src/http/health.ts',
    'features-apart: src/features/a/routes.ts',
    'known-room: src/main.ts',
    'no-circle: src/auth/key.ts',
    'nothing-of-the-workshop: src/features/b/routes.ts',
  ]);
});

t.test('ARCHITECTURE.md shows the folders as they are', async (t) => {
  await t.resolves(
    promisify(execFile)(process.execPath, ['--import', 'tsx', 'tools/folders.ts', '--check'], {
      cwd: repositoryDir,
    }),
  );
});

t.test('only main.ts and cli touch the process', async (t) => {
  t.same(
    offenders(
      (file, text) => !['main', 'cli'].includes(roomOf(file)) && /\bprocess\.\w|\bconsole\.\w/.test(text),
    ),
    [],
  );
});

t.test('no behaviour hangs on NODE_ENV', async (t) => {
  t.same(
    offenders((_file, text) => text.includes('NODE_ENV')),
    [],
  );
});

t.test('SQL stands in repositories, postgres and migrations only', async (t) => {
  const sql = /['"`]\s*(select\s|insert into\s|update \w+ set|delete from\s|with \w+ as \()/i;
  t.same(
    offenders(
      (file, text) =>
        !/\/repository\.ts$|^(postgres|migrations)\/|^auth\/(audit-log|changes|usage)\.ts$/.test(file) &&
        sql.test(text),
    ),
    [],
  );
  t.match(code.get('auth/repository.ts'), sql, 'the pattern finds what it looks for');
});

t.test('failure status codes stand in http only', async (t) => {
  const status = /\.(code|status)\(\s*[45]\d\d|status(Code)?\s*[:=]\s*[45]\d\d\b/;
  t.same(
    offenders((file, text) => roomOf(file) !== 'http' && status.test(text)),
    [],
  );
});

t.test('no autoload, no container: app.ts names every feature and every plugin', async (t) => {
  const named = new Set(importsOf('app.ts').map(({ path }) => path));
  const parts = files.filter((file) => /(^|\/)(plugin|routes)\.ts$/.test(file));
  const byOthers = new Set(
    parts.filter((file) =>
      files.some((other) => other !== 'app.ts' && importsOf(other).some(({ path }) => path === file)),
    ),
  );
  t.same(
    parts.filter((file) => !named.has(file) && !byOthers.has(file)),
    [],
  );
  const decorated = offenders((file, text) => !file.startsWith('cli/') && /\.decorate(Reply)?\(/.test(text));
  t.same(decorated, [], 'only the request is decorated');
});

t.test('pages name only paths and commands that exist', async (t) => {
  const { scripts } = JSON.parse(readFileSync(join(repositoryDir, 'package.json'), 'utf8'));
  const docs = readdirSync(join(repositoryDir, 'docs'), { recursive: true, encoding: 'utf8' });
  const top = readdirSync(repositoryDir).filter((name) => name.endsWith('.md') && name !== 'CHANGELOG.md');
  const pages = [...top, ...docs.filter((name) => name.endsWith('.md')).map((name) => join('docs', name))];
  const wrong: string[] = [];
  let named = 0;
  for (const page of pages) {
    const text = readFileSync(join(repositoryDir, page), 'utf8');
    const exists = (path: string) => existsSync(join(repositoryDir, path));
    // Without what is made at run time, and patterns such as features/NAME.
    const paths = [
      ...text.matchAll(/`((?:src|test|tools|proofs|docs|migrations|scripts|docker|k8s)\/[\w./-]*)`/g),
    ];
    const links = [...text.matchAll(/\]\((?!https?:)([^)#\s]+)[^)]*\)/g)];
    const commands = [...text.matchAll(/npm run (?:--silent )?([a-z0-9][\w:-]*)/g)];
    named += paths.length + links.length + commands.length;
    for (const [, path = ''] of paths)
      if (!/NAME|customers/.test(path) && !exists(path)) wrong.push(`${page}: ${path}`);
    for (const [, link = ''] of links)
      if (!exists(join(dirname(page), link))) wrong.push(`${page}: link ${link}`);
    for (const [, name = ''] of commands) if (!(name in scripts)) wrong.push(`${page}: npm run ${name}`);
  }
  t.same(wrong, []);
  t.ok(named > 100, 'the pages were really read');
});

t.test('each concern says at the head of a file what it is for', async (t) => {
  const concerns = readdirSync(root, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  const silent = concerns
    .map(({ name }) => name)
    .filter((name) => !['cli', 'features', 'lib', 'upstream'].includes(name))
    .filter((name) => !files.some((file) => roomOf(file) === name && sources.get(file)?.startsWith('/**\n')));
  t.same(silent, []);
});

t.test('importing a module does nothing', async (t) => {
  const modules = files.filter((file) => file !== 'main.ts').map((file) => join(root, file));
  const script = `
    for (const file of ${JSON.stringify(modules)}) await import(file);
    console.log(JSON.stringify(process.getActiveResourcesInfo().filter((name) => /Timeout|TCP|Server|Immediate/.test(name))));
  `;
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '--eval', script],
    { cwd: repositoryDir, env: { PATH: process.env.PATH } },
  );
  t.same(JSON.parse(stdout), []);
});

t.test('nothing of the environment of whoever runs the tests reaches them', async (t) => {
  const odd = {
    DATABASE_URL: 'x',
    LOG_LEVEL: 'x',
    NODE_ENV: 'production',
    PGOPTIONS: 'x',
    OTEL_SDK_DISABLED: '1',
  };
  const cleaned = ['--import', join(repositoryDir, 'test/support/clean-environment.mjs')];
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [...cleaned, '--print', 'JSON.stringify(process.env)'],
    { env: { ...process.env, ...odd, REQUIRE_TOOLS: '1' } },
  );
  const kept = JSON.parse(stdout);
  t.match(kept, { PATH: process.env.PATH, REQUIRE_TOOLS: '1' });
  for (const name of Object.keys(odd)) t.notOk(name in kept || name in process.env, name);
});

t.test('a clone has the line ends that shells need, whatever git is told', async (t) => {
  if (requireTool(t, 'git') === undefined) return;
  const [source, clone] = [temporaryFolder(t), join(temporaryFolder(t), 'clone')];
  for (const path of ['.gitattributes', '.env.example', 'docker', 'nginx', 'scripts', 'compose.yaml'])
    cpSync(join(repositoryDir, path), join(source, path), { recursive: true });
  const git = (...args: string[]) => promisify(execFile)('git', args, { cwd: source });
  await git('init', '--quiet');
  await git('add', '--all');
  await git('-c', 'user.name=t', '-c', 'user.email=t@localhost', 'commit', '-qm', 'Begin');
  await git('clone', '--quiet', '-c', 'core.autocrlf=true', source, clone);
  const cloned = readdirSync(clone, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.parentPath.includes('.git'))
    .map((entry) => join(entry.parentPath, entry.name));
  t.same(
    cloned.filter((file) => readFileSync(file).includes('\r')),
    [],
  );
  t.ok(cloned.length > 30, 'the files were really read');
});

t.test('every promise of the README is the name of its proof', async (t) => {
  const readme = readFileSync(join(repositoryDir, 'README.md'), 'utf8');
  const rows = [...readme.matchAll(/^\| (\d+) +\| (.+?) +\| `([^`]+)` +\|$/gm)];
  t.ok(rows.length > 5, 'the promises were really read');
  for (const [, number, promise = '', file = ''] of rows)
    t.ok(
      readFileSync(join(repositoryDir, file), 'utf8').includes(promise.replaceAll('_', '*')),
      `${number}: ${promise}`,
    );
});

t.test('files are short and named by a noun', async (t) => {
  const long = [...sources].filter(([, text]) => text.split('\n').length > 300).map(([file]) => file);
  t.same(long, []);
  t.same(
    files.filter((file) => /utils|helpers|common|shared\/|misc|index\.ts/.test(file)),
    [],
  );
  t.same(
    offenders((_file, text) => /^export default|^export \*/m.test(text)),
    [],
  );
});
