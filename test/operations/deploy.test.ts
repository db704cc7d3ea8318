import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { createAuthority } from '../support/certificates.ts';
import { pathWith, startScript, temporaryFolder } from '../support/scripts.ts';
import { repositoryDir } from '../support/servers.ts';
import { openStandin, STANDIN_DOCKER, type Standin } from '../support/standin-docker.ts';
import { requireTool } from '../support/tools.ts';
import { until } from '../support/until.ts';

// What deploy.sh decides, and what it refuses before an engine is touched. That nothing is lost while it replaces
// real containers: npm run check:stack.

interface Host {
  folder: string;
  docker: Standin;
  env: Record<string, string>;
  start(script: string, args: string[], changes?: Record<string, string>): ReturnType<typeof startScript>;
  deploy(args: string[], changes?: Record<string, string>): ReturnType<typeof startScript>['result'];
  put(name: string, text: string, mode?: number): void;
  state(): Record<string, string>;
}

// Most of their time they wait for scripts that run.
t.jobs = 3;

const authority = createAuthority(t);
const certificates = { good: authority?.issue('DNS:a.test', 90), ending: authority?.issue('DNS:a.test', 5) };

/** A host on which nothing stands in the way of a release. */
function host(t: Test, images: string[] = []): Host {
  const folder = temporaryFolder(t);
  cpSync(join(repositoryDir, 'scripts'), join(folder, 'scripts'), { recursive: true });
  mkdirSync(join(folder, 'secrets'));
  mkdirSync(join(folder, 'nginx/ssl'), { recursive: true });
  const docker = openStandin(folder, images);
  const env = {
    PATH: pathWith(t, { docker: STANDIN_DOCKER, sleep: '' }),
    STANDIN: docker.folder,
    TLS_DIR: join(folder, 'nginx/ssl'),
    DEPLOY_MIN_FREE_GB: '0',
  };
  const put = (name: string, text: string, mode = 0o600) => {
    writeFileSync(join(folder, name), text);
    chmodSync(join(folder, name), mode);
  };
  put('.env', 'SERVER_NAME=api.acme.test\n');
  put('secrets/app_password', `${randomBytes(32).toString('hex')}\n`);
  put('secrets/README.md', 'change me', 0o644);
  put('secrets/slack_url', 'https://hooks.test/1\n');
  if (certificates.good) copyFileSync(certificates.good.certificate, join(folder, 'nginx/ssl/fullchain.pem'));
  put('nginx/ssl/privkey.pem', '');
  const start: Host['start'] = (script, args, changes = {}) =>
    startScript(t, join(folder, 'scripts', script), args, { ...env, ...changes });
  return {
    folder,
    docker,
    env,
    start,
    deploy: (args, changes) => start('deploy.sh', args, changes).result,
    put,
    state: () => {
      const names = existsSync(join(folder, '.deploy')) ? readdirSync(join(folder, '.deploy')) : [];
      const files = names.filter((name) => name !== 'lock');
      return Object.fromEntries(
        files.map((name) => [name, readFileSync(join(folder, '.deploy', name), 'utf8').trim()]),
      );
    },
  };
}

const V1 = 'registry.test:5000/api:1.0';
const V2 = 'registry.test:5000/api:2.0';
const LONG = 'k'.repeat(10) + randomBytes(16).toString('hex');

interface Refusal {
  prepare?: (host: Host) => void;
  image?: string;
  changes?: Record<string, string>;
  says: RegExp;
}

const REFUSALS: Record<string, Refusal> = {
  'no .env': {
    prepare: ({ folder }) => rmSync(join(folder, '.env')),
    says: /there is no \.env: cp \.env\.example \.env/,
  },
  'a .env that others can read': {
    prepare: ({ put }) => put('.env', '', 0o644),
    says: /\.env can be read by others \(mode 644\): chmod 600 \.env/,
  },
  placeholders: {
    prepare: ({ put }) => put('.env', 'SERVER_NAME=api.example.com\nACME_EMAIL=<you>\nLOG_LEVEL=info\n'),
    says: /placeholders in \.env, set real values: SERVER_NAME, ACME_EMAIL\n/,
  },
  'CORS for everybody': {
    prepare: ({ put }) => put('.env', `CORS_ORIGINS='*'\n`),
    says: /CORS_ORIGINS with \* .*: list the origins/,
  },
  'CORS for everybody, from the environment': { changes: { CORS_ORIGINS: '*' }, says: /CORS_ORIGINS/ },
  'variables that compose does not pass on': {
    prepare: ({ put }) => put('.env', 'API_PORT=80\nSECRET_KEY_FILE=x\nSECRET_KEY=x\nENFORCE_HTTPS=\n'),
    says: /without effect in \.env, because compose\.yaml fixes them: API_PORT SECRET_KEY; \.env\.example says/,
  },
  'a secret that others can read': {
    prepare: ({ folder }) => chmodSync(join(folder, 'secrets/app_password'), 0o640),
    says: /secrets\/app_password can be read by others \(mode 640\): chmod 600/,
  },
  'a short secret': {
    prepare: ({ put }) => put('secrets/secret_key', LONG.slice(0, 31)),
    says: /secret in secrets\/secret_key is shorter than 32 characters: openssl rand -hex 32 >/,
  },
  'an empty secret': {
    prepare: ({ put }) => put('secrets/app_password', ''),
    says: /secret in secrets\/app_password is empty; write the secret/,
  },
  'a secret of two lines': {
    prepare: ({ put }) => put('secrets/app_password', `${LONG}\n${LONG}\n`),
    says: /secret in secrets\/app_password has more than one line/,
  },
  'a monotonous secret': {
    prepare: ({ put }) => put('secrets/app_password', 'abcabcabc'.repeat(5)),
    says: /secrets\/app_password has fewer than 10 different characters/,
  },
  'a placeholder as secret': {
    prepare: ({ put }) => put('secrets/app_password', `change-me-${LONG}`),
    says: /secrets\/app_password is a placeholder/,
  },
  'a TLS key that others can read': {
    prepare: ({ put }) => put('nginx/ssl/privkey.pem', '', 0o644),
    says: /nginx\/ssl\/privkey\.pem can be read by others/,
  },
  'a certificate that ends soon': {
    prepare: ({ folder }) =>
      copyFileSync(certificates.ending?.certificate ?? '', join(folder, 'nginx/ssl/fullchain.pem')),
    says: /fullchain\.pem expires within 14 days \(.* GMT\): scripts\/certificates\.sh renew/,
  },
  'no certificate in its file': {
    prepare: ({ put }) => put('nginx/ssl/fullchain.pem', 'nothing'),
    says: /fullchain\.pem is not a certificate/,
  },
  'a tag that moves': { image: 'api:latest', says: /tag of the image api:latest moves: name a version/ },
  'no tag behind a port': { image: 'registry.test:5000/api', says: /registry\.test:5000\/api has no tag/ },
  'a disk that is nearly full': {
    changes: { DEPLOY_MIN_FREE_GB: '10000000' },
    says: /\d GB are free on this disk, fewer than DEPLOY_MIN_FREE_GB=10000000/,
  },
  'settings that are no numbers': {
    prepare: ({ put }) => put('.env', 'API_REPLICAS=0\nDEPLOY_WATCH_SECONDS="5 min"\n'),
    says: /DEPLOY_WATCH_SECONDS=5 min must be a whole number[^]*API_REPLICAS=0 must be 1 or more/,
  },
  'no compose': {
    prepare: ({ docker }) => docker.flag('no-compose'),
    says: /docker compose is missing: install Docker Engine/,
  },
  'an engine that does not answer': {
    prepare: ({ docker }) => docker.flag('no-engine'),
    says: /the Docker engine does not respond: start it/,
  },
  'a compose file that does not fit': {
    prepare: ({ docker }) => docker.flag('no-config'),
    says: /refuses compose\.yaml with \.env: services\.api: no such thing/,
  },
};

t.test('every refusal of the preflight', async (t) => {
  if (!requireTool(t, 'openssl')) return;
  const asked = /^(compose version|info|compose config -q|compose config --images|compose ps -q api)$/;
  for (const [what, { prepare, image = V1, changes, says }] of Object.entries(REFUSALS)) {
    const h = host(t, [V1]);
    prepare?.(h);
    const command = image === V1 ? 'deploy' : 'update';
    const { code, stderr } = await h.deploy([command, image], changes);
    t.equal(code, 3, `${what}: ${stderr}`);
    t.match(stderr, says, what);
    t.match(stderr, /refused, [12] problem/, `${what}: and nothing else`);
    t.notMatch(stderr, new RegExp(LONG.slice(5, 20)), 'no secret is shown');
    const others = h.docker.calls().trim().split('\n');
    t.same(
      others.filter((call) => !asked.test(call)),
      [],
      `${what}: nothing was touched`,
    );
    t.same(h.docker.images(), [V1]);
    t.same(h.state(), {});
  }
});

t.test('all problems at once, and a host without any', async (t) => {
  if (!requireTool(t, 'openssl')) return;
  const bad = host(t);
  bad.put('.env', 'CORS_ORIGINS=*\nSERVER_NAME=your-name.com\n', 0o644);
  bad.put('secrets/app_password', 'secret', 0o644);
  bad.docker.flag('no-engine');
  const { code, stderr } = await bad.deploy(['preflight', 'api:main'], { DEPLOY_MIN_FREE_GB: '10000000' });
  t.equal(code, 3);
  t.match(stderr, /refused, 8 problem/);
  t.equal(stderr.match(/^ {2}- /gm)?.length, 8, stderr);

  const good = host(t);
  t.match(await good.deploy(['preflight']), { code: 0, stderr: /no problems found/ });
  t.match(await good.deploy(['preflight', 'api@sha256:0123']), { code: 0 });
  // One file elsewhere, as compose itself reads it.
  rmSync(join(good.folder, '.env'));
  good.put('other.env', 'CORS_ORIGINS=https://shop.acme.test\n');
  t.match(await good.deploy(['preflight', V1], { COMPOSE_ENV_FILES: 'other.env' }), { code: 0 });
});

t.test('wrong use ends with 2', async (t) => {
  const h = host(t);
  const WRONG = [[], ['start'], ['deploy', V1, V2], ['update', V1, V2], ['rollback', V1], ['stop', 'api']];
  for (const args of [...WRONG, ['status', 'api'], ['backup', 'now'], ['preflight', V1, V2], ['restore']]) {
    t.match(await h.deploy(args), { code: 2, stderr: /(deploy|restore)\.sh / }, args.join(' '));
  }
  t.equal(h.docker.calls(), '');
});

t.test('a release, and what ends it', async (t) => {
  if (!requireTool(t, 'openssl')) return;

  await t.test('first deploy, update, rollback', async (t) => {
    const h = host(t);
    t.match(await h.deploy(['update', V1]), { code: 1, stderr: /the stack does not run yet/ });
    t.match(await h.deploy(['rollback']), { code: 1, stderr: /no previous release/ });
    t.match(await h.deploy(['deploy', V1]), { code: 0, stderr: /deployed/ });
    t.same([h.docker.images(), h.state()], [[V1, V1], { current: V1 }]);
    h.docker.clear();
    t.match(await h.deploy(['update', V2]), { code: 0, stderr: /watching for 300 s\n.* running/ });
    t.same([h.docker.images(), h.state()], [[V2, V2], { current: V2, previous: V1 }]);
    t.match(
      h.docker.calls(),
      /backup\.sh run\n[^]*compose run .* migrate\n[^]*compose up .*--scale api=3 [^]*\nstop [^]*\nstop [^]*monitor\.js/,
      'backup, migrations, a third replica before one of two is stopped, watch',
    );
    t.equal((await h.deploy(['rollback'])).code, 0);
    t.same([h.docker.images(), h.state()], [[V1, V1], { current: V1, previous: V2 }]);
    t.match(await h.deploy(['status']), { code: 0, stdout: /^image .*1\.0, previous .*2\.0\n/ });
    h.docker.clear();
    t.equal((await h.deploy(['update', V2], { DEPLOY_WATCH_SECONDS: '0' })).code, 0);
    t.notMatch(h.docker.calls(), /monitor/, '0 seconds: no watch');
  });

  const ENDS: [string, string, number, RegExp, RegExp | undefined][] = [
    [
      'never gets healthy',
      'api:2-sick',
      4,
      /not 3 healthy replicas: container \d+ is unhealthy\n.*answered 503\n.*failed: rolling back to .*1\.0\n.*rolled back/,
      undefined,
    ],
    ['trips the watch', 'api:2-slow', 4, /watching[^]*rolled back to .*1\.0/, undefined],
    [
      'has migrations that fail',
      'api:2-broken',
      1,
      /the service was not touched/,
      /^(stop|rm) |compose up.*api$/m,
    ],
  ];
  for (const [what, image, code, says, never] of ENDS) {
    await t.test(`a release that ${what}`, async (t) => {
      const h = host(t, [V1, V1]);
      t.match(await h.deploy(['update', image]), { code, stderr: says });
      t.same(h.docker.images(), [V1, V1]);
      t.notOk(h.state().next ?? h.state().current, 'nothing is left to be finished');
      if (never) t.notMatch(h.docker.calls(), never);
    });
  }

  await t.test('no release without a backup', async (t) => {
    const h = host(t, [V1, V1]);
    h.docker.flag('no-backup');
    t.match(await h.deploy(['update', V2]), {
      code: 1,
      stderr: /the backup failed, so nothing is released/,
    });
    t.notMatch(h.docker.calls(), /migrate|^stop /m);
    t.match(await h.deploy(['backup']), { code: 1, stderr: /no backup was made/ });
  });

  const AFTER: [string, string[], string[], Record<string, string>][] = [
    ['goes on with the same', ['update'], [V2, V2], { current: V2, previous: V1 }],
    ['takes another', ['update', 'api:3.0'], ['api:3.0', 'api:3.0'], { current: 'api:3.0', previous: V1 }],
    ['goes back', ['rollback'], [V1, V1], { current: V1 }],
  ];
  for (const [what, args, images, state] of AFTER) {
    await t.test(`interrupted half way, the next run ${what}`, async (t) => {
      const h = host(t);
      t.equal((await h.deploy(['deploy', V1])).code, 0);
      h.docker.flag('interrupt');
      t.equal((await h.deploy(['update', V2])).code, 'SIGTERM');
      t.same(h.docker.images().toSorted(), [V1, V1, V2], 'it is half way');
      t.match(await h.deploy(['status']), { stdout: /interrupted on the way to .*2\.0/ });
      t.equal((await h.deploy(args)).code, 0);
      t.same([h.docker.images(), h.state()], [images, state]);
    });
  }

  await t.test('another run ends with 5', async (t) => {
    const h = host(t, [V1, V1]);
    h.docker.flag('wait');
    const first = h.start('deploy.sh', ['update', V2]);
    await until('the backup', () => existsSync(join(h.docker.folder, 'waiting')));
    for (const args of [['update', V2], ['deploy', V2], ['rollback']])
      t.match(await h.deploy(args), { code: 5, stderr: /another run is active/ });
    rmSync(join(h.docker.folder, 'wait'));
    t.equal((await first.result).code, 0);
    t.same(h.docker.images(), [V2, V2]);
  });
});

t.test('certificates', async (t) => {
  const email = 'ACME_EMAIL=ops@acme.test\n';
  const name = 'SERVER_NAME=api.acme.test\n';
  const REFUSED: [string[], string, RegExp][] = [
    [['obtain'], email, /no SERVER_NAME: set it in \.env/],
    [['obtain'], `SERVER_NAME=localhost\n${email}`, /SERVER_NAME=localhost is not a public name/],
    [['obtain'], `SERVER_NAME=10.0.0.1\n${email}`, /is not a public name/],
    [['obtain'], name, /no ACME_EMAIL/],
    [['renew'], name, /there is no certificate for api\.acme\.test yet/],
  ];
  for (const [args, text, says] of REFUSED) {
    const h = host(t);
    h.put('.env', text);
    t.match(await h.start('certificates.sh', args).result, { code: 3, stderr: says });
    t.equal(h.docker.calls(), '', 'nothing was touched');
  }
  const h = host(t);
  for (const args of [[], ['revoke'], ['obtain', '--force'], ['renew', '--dry-run', 'x']])
    t.match(await h.start('certificates.sh', args).result, { code: 2, stderr: /certificates\.sh obtain/ });
  h.put('.env', name + email);
  h.docker.flag('stopped');
  t.match(await h.start('certificates.sh', ['obtain']).result, { code: 3, stderr: /nginx does not run/ });
  rmSync(join(h.docker.folder, 'stopped'));

  // What it asks of certbot is not proven here, only what it does with the answer.
  const not = await h.start('certificates.sh', ['obtain', '--dry-run']).result;
  t.match(not, { code: 0, stderr: /no new certificate/ });
  t.match(h.docker.calls(), /certonly -d api\.acme\.test .*--dry-run .*--webroot -w \/var\/www\/acme/);
  t.notMatch(h.docker.calls(), /reload/);
  t.equal(statSync(join(h.folder, 'nginx/acme')).mode & 0o777, 0o755, 'nginx can read the challenge');
  h.docker.flag('due');
  t.match(await h.start('certificates.sh', ['obtain']).result, {
    code: 0,
    stderr: /serves a new certificate/,
  });
  t.match(h.docker.calls(), /run .* setup\n.*nginx -t\n.*nginx -s reload\n$/);
});

t.test('settings are what docker compose reads', async (t) => {
  const docker = requireTool(t, 'docker');
  if (!docker) return;
  const folder = temporaryFolder(t);
  const text = [
    '\uFEFFAPI_REPLICAS = 4',
    'export SECRETS_DIR="a dir"',
    'TLS_DIR=tls # a note',
    'SERVER_NAME=api.acme.test   ',
    `ACME_EMAIL='a"$b\\<c>'`,
    'CORS_ORIGINS: https://a.test',
    'DEPLOY_SERVICES=${TLS_DIR} backup',
    'CERTBOT_IMAGE=',
    '',
  ].join('\r\n');
  writeFileSync(join(folder, '.env'), text);
  const expected = {
    API_REPLICAS: '4',
    SECRETS_DIR: 'a dir',
    TLS_DIR: 'tls',
    SERVER_NAME: 'api.acme.test',
    ACME_EMAIL: 'a"$b\\<c>',
    CORS_ORIGINS: 'https://a.test',
    DEPLOY_SERVICES: 'tls backup',
    CERTBOT_IMAGE: 'the default',
    DEPLOY_WATCH_SECONDS: 'of the shell',
  };
  const names = Object.keys(expected);
  const read = names.map((name) => `setting ${name} 'the default'`).join('; ');
  const script = `. '${repositoryDir}/scripts/common.sh'; cd '${folder}'; read_settings ${names.join(' ')}; ${read}`;
  const env = { HOME: process.env.HOME ?? '', DEPLOY_WATCH_SECONDS: 'of the shell' };
  const { code, stdout, stderr } = await startScript(t, 'bash', ['-c', script], env).result;
  t.equal(code, 0, stderr);
  t.same(stdout.split('\n').slice(0, -1), Object.values(expected));
});
