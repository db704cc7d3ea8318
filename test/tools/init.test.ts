import { execFile, execFileSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { readProject } from '../../tools/init/files.ts';
import { derivePrefix, rename, spellNames } from '../../tools/init/names.ts';
import { initProject } from '../../tools/init/main.ts';
import { createToken } from '../../src/auth/token.ts';
import { temporaryFolder, writeFiles } from '../support/scripts.ts';
import { repositoryDir } from '../support/servers.ts';
import { requireTool } from '../support/tools.ts';

const NAMES = spellNames('my-service', 'ms');

t.test('every place gets the spelling that is right there', async (t) => {
  const places: [path: string, before: string, after: string][] = [
    ['compose.yaml', 'image: ghcr.io/acme/hardpoint:1.2.3', 'image: ghcr.io/acme/my-service:1.2.3'],
    ['compose.yaml', 'image: hardpoint:dev@sha256:00', 'image: my-service:dev@sha256:00'],
    ['compose.yaml', 'POSTGRES_DB: hardpoint', 'POSTGRES_DB: my_service'],
    [
      'compose.yaml',
      'POSTGRES_USER=${POSTGRES_USER:-hardpoint}',
      'POSTGRES_USER=${POSTGRES_USER:-my_service}',
    ],
    [
      'compose.yaml',
      'test: pg_isready -U hardpoint -d hardpoint',
      'test: pg_isready -U my_service -d my_service',
    ],
    ['compose.yaml', "['CMD', 'pg_isready', '-U', 'hardpoint']", "['CMD', 'pg_isready', '-U', 'my_service']"],
    ['compose.yaml', 'name: hardpoint', 'name: my-service'],
    ['compose.yaml', '${HARDPOINT_IMAGE:?}', '${MY_SERVICE_IMAGE:?}'],
    [
      'a.env',
      'postgres://hardpoint:x@db:5432/hardpoint?a=1',
      'postgres://my_service:x@db:5432/my_service?a=1',
    ],
    [
      'a.env',
      'postgresql://hardpoint_app@hardpoint-postgres.hardpoint.svc:5432/hardpoint',
      'postgresql://my_service_app@my-service-postgres.my-service.svc:5432/my_service',
    ],
    [
      'prometheus/rules/a.yml',
      'up{namespace="hardpoint",job="api"} == 0',
      'up{namespace="my-service",job="api"} == 0',
    ],
    [
      'prometheus/prometheus.yml',
      '{ target_label: namespace, replacement: hardpoint }',
      '{ target_label: namespace, replacement: my-service }',
    ],
    [
      'grafana/a.json',
      '{ "text": "hardpoint", "value": "hardpoint" }',
      '{ "text": "my-service", "value": "my-service" }',
    ],
    ['test/a.ts', "labels: { namespace: 'hardpoint' }", "labels: { namespace: 'my-service' }"],
    [
      'k8s/a.yaml',
      'metadata: { name: hardpoint, namespace: hardpoint }',
      'metadata: { name: my-service, namespace: my-service }',
    ],
    [
      'k8s/a.yaml',
      '- name: PGDATABASE\n              value: hardpoint',
      '- name: PGDATABASE\n              value: my_service',
    ],
    ['k8s/a.yaml', 'app.kubernetes.io/part-of: hardpoint', 'app.kubernetes.io/part-of: my-service'],
    ['prometheus/a.yml', 'alert: HardpointDown', 'alert: MyServiceDown'],
    ['prometheus/a.yml', 'summary: Hardpoint is down', 'summary: My Service is down'],
    ['prometheus/a.yml', 'record: hardpoint:errors:ratio_rate5m', 'record: my_service:errors:ratio_rate5m'],
    ['prometheus/a.yml', 'up{job="hardpoint"}', 'up{job="my-service"}'],
    ['prometheus/a.yml', 'pg_database_size{datname="hardpoint"}', 'pg_database_size{datname="my_service"}'],
    ['grafana/a.json', '"title": "Hardpoint service"', '"title": "My Service service"'],
    ['grafana/a.json', '"uid": "hardpoint-service"', '"uid": "my-service-service"'],
    [
      'nginx/a.conf',
      'upstream hardpoint { server hardpoint-api:8000; }',
      'upstream my-service { server my-service-api:8000; }',
    ],
    ['nginx/a.conf', 'map $http_x $hardpoint_id {', 'map $http_x $my_service_id {'],
    [
      'docker/a.sql',
      'grant connect on database hardpoint to hardpoint_app;',
      'grant connect on database my_service to my_service_app;',
    ],
    [
      'docker/a.sql',
      'create role hardpoint; set role hardpoint;',
      'create role my_service; set role my_service;',
    ],
    ['pgbouncer.ini', '[databases]\nhardpoint = host=postgres', '[databases]\nmy_service = host=postgres'],
    [
      'backup.sh',
      'pg_dump \\\n  -U hardpoint hardpoint > hardpoint.dump',
      'pg_dump \\\n  -U my_service my_service > my-service.dump',
    ],
    ['backup.sh', 'docker run -d hardpoint', 'docker run -d my-service'],
    ['backup.sh', 'adduser hardpoint', 'adduser my-service'],
    ['a.ts', "await ensureDatabase(url, 'hardpoint')", "await ensureDatabase(url, 'my_service')"],
    ['a.ts', 'client.hardpointCount(isHardpoint)', 'client.myServiceCount(isMyService)'],
    [
      'a.ts',
      "'x-hardpoint-id' 'X-Hardpoint-Id' 'Hardpoint/1.0'",
      "'x-my-service-id' 'X-My-Service-Id' 'My-Service/1.0'",
    ],
    ['a.ts', String.raw`'\nHardpoint\nhardpoint'`, String.raw`'\nMy Service\nmy-service'`],
    [
      'LICENSE',
      'Copyright (c) 2026 The Hardpoint maintainers',
      'Copyright (c) 2026 The My Service maintainers',
    ],
    ['.gitignore', '.hardpoint/', '.my-service/'],
    ['README.md', 'Hardpoint is a service. `cd hardpoint`', 'My Service is a service. `cd my-service`'],
    [
      'README.md',
      'hp_<env>_<id> hp_live_… `hp:limit:` "hp" HP_KEY',
      'ms_<env>_<id> ms_live_… `ms:limit:` "ms" MS_KEY',
    ],
    [
      'gitleaks.toml',
      String.raw`regex = '''\bhp_[a-z]{2,10}_'''`,
      String.raw`regex = '''\bms_[a-z]{2,10}_'''`,
    ],
    [
      'a.ts',
      'https://php.net HPE_HEADER_OVERFLOW ssl_dhparam hpa',
      'https://php.net HPE_HEADER_OVERFLOW ssl_dhparam hpa',
    ],
    ['package-lock.json', '"integrity": "sha512-a+hp/b=="', '"integrity": "sha512-a+hp/b=="'],
  ];
  for (const [path, before, after] of places)
    t.equal(rename(before, path, NAMES), after, `${path}: ${before}`);

  // A new name that holds the old prefix, or is one word.
  const gateway = spellNames('hp-gateway', 'hg');
  t.equal(rename('hardpoint hp_live', 'a', gateway), 'hp-gateway hg_live');
  t.equal(
    rename('Hardpoint hardpointCount HARDPOINT_X', 'a', spellNames('billing', 'bi')),
    'Billing billingCount BILLING_X',
  );
});

t.test('the key prefix comes from the first letters of the name', async (t) => {
  const names = ['my-service', 'billing', 'a-b-c-d-e', 'web-2-api', 's3'];
  t.strictSame(names.map(derivePrefix), ['ms', 'bi', 'abcd', 'wa', undefined]);
});

t.test('a project comes out of the template', async (t) => {
  if (requireTool(t, 'git') === undefined) return;
  const folder = makeTemplate(t);
  commitAll(folder);

  const report = await initProject(folder, ['my-service']);

  const files = readProject(folder);
  t.strictSame(
    [...files.keys()],
    [
      '.ci/run',
      '.gitignore',
      '.prettierrc.json',
      'README.md',
      'deploy.sh',
      'docs/my-service.md',
      'logo.png',
      'package-lock.json',
      'package.json',
      'src/app.ts',
      'src/features/orders/routes.ts',
      'test/orders-and-keys.test.ts',
    ],
  );
  t.equal(
    files.get('README.md'),
    `# My Service

| Test                           |
| ------------------------------ |
| \`test/orders-and-keys.test.ts\` |
| my-service                     |

The example.

After.
`,
  );
  t.equal(files.get('.ci/run'), '#!/bin/sh\nnpm test\n');
  t.strictSame(JSON.parse(files.get('package.json') ?? ''), {
    name: 'my-service',
    dependencies: { fastify: '5.12.8' },
    scripts: { test: 'tap', bench: 'node test/orders-and-keys.test.ts' },
  });
  t.equal(statSync(join(folder, 'deploy.sh')).mode & 0o777, 0o755);
  t.strictSame(readFileSync(join(folder, 'logo.png')), PICTURE);
  t.notOk(existsSync(join(folder, 'scripts')), 'no empty folder is left');
  t.notOk(existsSync(join(folder, '.hardpoint')));
  t.equal(readFileSync(join(folder, '.my-service/dev-key.json'), 'utf8'), '{}', 'local data moves along');
  t.match(report.join('\n'), /renamed docs\/hardpoint\.md -> docs\/my-service\.md/);
  t.match(report.join('\n'), /removed tools\/init\/main\.ts/);
  t.notMatch(report.join('\n'), /look at/);

  await t.rejects(initProject(folder, ['other', '--force']), /This is my-service already/);
});

t.test('without the example nothing of it stays', async (t) => {
  const folder = makeTemplate(t);
  writeFileSync(join(folder, 'NOTES.md'), 'See src/features/orders, and npm run bench.\n');

  const report = await initProject(folder, ['my-service', '--without-example', '--prefix', 'zz']);

  const files = readProject(folder);
  t.notOk(files.has('src/features/orders/routes.ts'));
  t.notOk(files.has('test/orders-and-keys.test.ts'));
  t.equal(
    files.get('README.md'),
    '# My Service\n\n| Test       |\n| ---------- |\n| my-service |\n\nAfter.\n',
  );
  t.equal(
    files.get('src/app.ts'),
    "import { keys } from './features/keys/routes.ts';\napp.register(keys, 'zz');\n",
  );
  t.strictSame(JSON.parse(files.get('package.json') ?? '').scripts, { test: 'tap' });
  t.match(report.join('\n'), /look at NOTES\.md: .* line 1$/m, 'what no rule knows is pointed at');
});

t.test('what cannot go well is refused before anything is written', async (t) => {
  const folder = makeTemplate(t);
  const before = readProject(folder);
  const refused: [args: string[], message: RegExp][] = [
    [[], /One name is needed\. Usage/],
    [['one', 'two'], /One name is needed/],
    [['my-service', '--without-examples'], /Unknown option '--without-examples'[^]*Usage/],
    [['my-service', '--prefix', 'toolong'], /--prefix takes 2 to 4 letters/],
    [['s3'], /no two letters for a key prefix/],
    [['hardpoint'], /name of the template/],
    [['my-hardpoint'], /name of the template/],
    [['order'], /means something else to SQL/],
    [['stream'], /means something else to SQL, YAML, Node/],
    [['fastify'], /a package that this one needs/],
    ...['My-Service', 'my_service', '-x', 'x-', 'a--b', '1st', 'x', 'x'.repeat(41), '../x', ''].map(
      (name): [string[], RegExp] => [['--', name], /cannot be the name/],
    ),
  ];
  for (const [args, message] of refused) await t.rejects(initProject(folder, args), message, args.join(' '));

  writeFileSync(join(folder, 'new.txt'), 'one\nHard Point\nhp2\n');
  await t.rejects(initProject(folder, ['my-service', '--force']), /2 places[^]*new\.txt:2\nnew\.txt:3/);
  writeFileSync(join(folder, 'new.txt'), '# example:start\n');
  await t.rejects(initProject(folder, ['my-service', '--force']), /new\.txt: a ":start" without its ":end"/);
  rmSync(join(folder, 'new.txt'));
  writeFileSync(join(folder, '.hardpoint/dev.pid'), String(process.pid));
  await t.rejects(initProject(folder, ['my-service']), /works in \.hardpoint at this moment/);
  t.strictSame(readProject(folder), before);

  rmSync(join(folder, 'package.json'));
  await t.rejects(initProject(folder, ['my-service']), /No package\.json/);
});

t.test('what git would lose is not overwritten', async (t) => {
  if (requireTool(t, 'git') === undefined) return;
  const folder = makeTemplate(t);
  commitAll(folder);
  writeFileSync(join(folder, 'new.txt'), 'mine\n');
  await t.rejects(initProject(folder, ['my-service']), /1 uncommitted change[^]*new\.txt[^]*git stash -u/);
});

t.test('this repository becomes a project with no trace of the template', async (t) => {
  const folder = copyRepository(t);
  const init = (...args: string[]) => node(folder, '--import', 'tsx', 'tools/init/main.ts', ...args);

  await t.rejects(init('Bad'), { code: 1, stderr: /^"Bad" cannot be the name.*\n$/ });
  const { stdout } = await init('my-service', '--without-example');

  const files = [...readProject(folder)].filter(([, text]) => text !== undefined);
  const traces = files.filter(([path, text = '']) =>
    /hardpoint|(?<![a-z])hp[_:]/i.test(path + withoutHashes(path, text)),
  );
  t.strictSame(
    traces.map(([path]) => path),
    [],
  );
  t.match(stdout, /^My Service: \d{2,} files changed/);
  const { name, scripts } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  t.equal(name, 'my-service');
  t.strictSame(
    Object.keys(scripts).filter((script) => script.includes('init')),
    [],
  );
  const lock = JSON.parse(readFileSync(join(folder, 'package-lock.json'), 'utf8'));
  t.strictSame([lock.name, lock.packages[''].name], ['my-service', 'my-service']);

  const keys: typeof import('../../src/auth/token.ts') = await import(
    pathToFileURL(join(folder, 'src/auth/token.ts')).href
  );
  const { id, token } = createToken('live');
  const mistyped = token.slice(0, -1) + (token.endsWith('A') ? 'B' : 'A');
  t.match(keys.createToken('live').token, /^ms_live_/);
  t.equal(keys.parseToken(rename(token, 'a.md', NAMES))?.id, id, 'a key in the text stays valid');
  t.equal(keys.parseToken(rename(mistyped, 'a.md', NAMES)), undefined, 'a mistyped one stays wrong');
});

const PICTURE = Buffer.from([0x89, 0, 0x68, 0x70, 0x5f, 0]);

/** A small template, with one file of each kind. */
function makeTemplate(t: Test): string {
  const folder = temporaryFolder(t);
  const files: Record<string, string | Buffer> = {
    '.gitignore': '.hardpoint/\n',
    '.ci/run': '#!/bin/sh\nnpm run --silent check:init\nnpm test\n',
    '.hardpoint/dev-key.json': '{}',
    '.prettierrc.json': '{ "singleQuote": true }\n',
    'README.md': `# Hardpoint

<!-- init:start -->

Rename it: npm run init

<!-- init:end -->

| Test                             |
| -------------------------------- |
| \`test/orders-and-keys.test.ts\` |
| hardpoint                        |

<!-- example:start -->

The example.

<!-- example:end -->

After.
`,
    'deploy.sh': 'echo hardpoint\n',
    'docs/hardpoint.md': 'hp_live_\n',
    'logo.png': PICTURE,
    'package-lock.json': '{ "name": "hardpoint", "packages": { "": { "name": "hardpoint" } } }\n',
    'package.json': `${JSON.stringify({
      name: 'hardpoint',
      dependencies: { fastify: '5.12.8' },
      scripts: {
        init: 'node --import tsx tools/init/main.ts',
        'check:init': 'node --import tsx proofs/init/main.ts',
        test: 'tap',
        bench: 'node test/orders-and-keys.test.ts',
      },
    })}\n`,
    'proofs/init/main.ts': '// hardpoint\n',
    'tools/init/main.ts': '// hardpoint\n',
    'src/app.ts': `import { keys } from './features/keys/routes.ts';
import { orders } from './features/orders/routes.ts';
app.register(keys, 'hp');
app.register(orders, {
  a: 1,
});
`,
    'src/features/orders/routes.ts': 'export const orders = 1;\n',
    'test/tools/init.test.ts': '// hardpoint\n',
    'test/orders-and-keys.test.ts': '// Goes with the example: src/features/orders\n',
  };
  writeFiles(folder, files);
  chmodSync(join(folder, 'deploy.sh'), 0o755);
  return folder;
}

function commitAll(folder: string): void {
  const git = (...args: string[]) => execFileSync('git', args, { cwd: folder });
  git('init', '--quiet');
  git('add', '--all');
  git('-c', 'user.name=t', '-c', 'user.email=t@localhost', 'commit', '-qm', 'Begin');
}

/** Without git, as an unpacked archive. */
function copyRepository(t: Test): string {
  const folder = temporaryFolder(t);
  for (const path of readProject(repositoryDir).keys()) cpSync(join(repositoryDir, path), join(folder, path));
  symlinkSync(join(repositoryDir, 'node_modules'), join(folder, 'node_modules'));
  return folder;
}

function withoutHashes(path: string, text: string): string {
  return path.endsWith('package-lock.json') ? text.replaceAll(/"integrity": ".*"/g, '') : text;
}

function node(cwd: string, ...args: string[]) {
  return promisify(execFile)(process.execPath, args, { cwd });
}
