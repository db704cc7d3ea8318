import { execFile } from 'node:child_process';
import { cpSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import { temporaryFolder } from './support/scripts.ts';
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

/** The rooms of src from the top to the ground: each may import what stands below it, and itself. */
const FLOORS = [
  ['main', 'cli'],
  ['app', 'internal-app', 'dependencies'],
  ['config'],
  ['features'],
  ['rate-limit', 'idempotency'],
  ['auth'],
  ['cache', 'openapi', 'upstream'],
  ['http'],
  ['migrations'],
  ['postgres', 'redis'],
  ['observability'],
  ['lib', 'errors'],
];
const floorOf = (room: string) => FLOORS.findIndex((rooms) => rooms.includes(room));

function roomOf(file: string): string {
  return (file.split('/')[0] ?? '').replace(/\.ts$/, '');
}

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

t.test('imports point one way', async (t) => {
  const wrong: string[] = [];
  for (const file of files) {
    for (const { path } of importsOf(file)) {
      const [from, to] = [roomOf(file), roomOf(path)];
      const sideways =
        from !== to && floorOf(from) === floorOf(to) && from !== 'app' && from !== 'internal-app';
      const read = to === 'config' && floorOf(from) > 2;
      if (floorOf(from) > floorOf(to) || sideways || read) wrong.push(`${file} imports ${path}`);
    }
  }
  t.same(wrong, []);
  t.same(
    files.filter((file) => floorOf(roomOf(file)) < 0),
    [],
    'every room has its floor',
  );
  t.ok(files.flatMap(importsOf).length > 100, 'the imports were really read');
});

t.test('a feature imports no other feature', async (t) => {
  const wrong: string[] = [];
  for (const file of files) {
    const [folder, name] = file.split('/');
    for (const { path } of importsOf(file)) {
      const [otherFolder, otherName] = path.split('/');
      if (folder === 'features' && otherFolder === 'features' && name !== otherName)
        wrong.push(`${file}: ${path}`);
    }
  }
  t.same(wrong, []);
});

t.test('of a concern one file knows Fastify', async (t) => {
  const allowed =
    /^(app|internal-app)\.ts$|^(http|openapi)\/|\/plugin\.ts$|^features\/|^auth\/failed-attempts\.ts$/;
  t.same(
    offenders((file, text) => !allowed.test(file) && /from '(@?fastify)/.test(text)),
    [],
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
