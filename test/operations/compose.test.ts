import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { CONNECTIONS_OF_CHECKS } from '../../src/postgres/postgres.ts';
import { loadConfig } from '../../src/config/config.ts';
import { VARIABLES } from '../../src/config/variables.ts';
import { shutdownBudgetMs } from '../../src/http/shutdown.ts';
import {
  durationMs,
  readCompose,
  readComposeByDocker,
  readText,
  type Compose,
  type ComposeService,
  type ComposeVolume,
} from '../support/compose.ts';
import { writeIncludes } from '../support/nginx-config.ts';
import { temporaryFolder } from '../support/scripts.ts';
import { requireTool } from '../support/tools.ts';

const { services, networks } = readCompose();
const all = Object.entries(services);
/** Runs once and alone: makes what is missing, and gives each service its own. */
const SETUP = 'setup';
const LOAD = 'load';
const ONE_SHOT = [SETUP, 'migrate', LOAD];
/** Their images hold one program and nothing that could ask it. */
const WITHOUT_SHELL = ['redis-exporter', 'nginx-exporter'];
const DATABASES = ['postgres', 'redis', 'redis-cache'];

const failing = (holds: (service: ComposeService, name: string) => boolean): string[] =>
  all.filter(([name, service]) => !holds(service, name)).map(([name]) => name);
const envOf = (name: string) => services[name]?.environment ?? {};
const secretsOf = ({ volumes = [] }: ComposeService) =>
  volumes.find(
    (volume): volume is ComposeVolume => typeof volume !== 'string' && volume.source === 'secrets',
  );
const DATABASE_URL = 'postgres://app:a-9f8e7d6c5b4a@postgres/app';
const nginx = readText('nginx/nginx.conf') + readText('nginx/conf.d/api.conf');
const valueOf = (pattern: RegExp, text: string) => {
  const value = pattern.exec(text)?.[1];
  if (value === undefined) throw new Error(`nothing matches ${pattern.source}`);
  return value;
};

/** What nginx/limits.sh writes in this environment to the file of this name. */
function readInclude(t: Test, name: string, env: Record<string, string> = {}): string {
  const folder = temporaryFolder(t);
  writeIncludes(folder, env);
  return readFileSync(join(folder, `${name}.conf`), 'utf8');
}

t.test('no service can do more than its work needs', async (t) => {
  t.same(
    failing(({ read_only }) => read_only === true),
    [],
  );
  t.same(
    failing(({ cap_drop }) => cap_drop?.join() === 'ALL'),
    [],
  );
  t.same(
    failing(({ security_opt }) => security_opt?.includes('no-new-privileges:true') === true),
    [],
  );
  const isNobody = (user: string) => /^[1-9]\d*:\d+$/.test(user);
  t.same(
    failing(({ user }, name) => isNobody(user) || name === SETUP),
    [],
  );
  t.same(
    failing(({ cap_add }, name) => cap_add === undefined || name === SETUP),
    [],
  );
  t.equal(services[SETUP]?.network_mode, 'none', 'the one that is root is alone');
  t.same(
    failing(({ privileged, pid }) => !privileged && pid === undefined),
    [],
  );
  t.same(
    failing(({ volumes }) => !JSON.stringify(volumes ?? []).includes('docker.sock')),
    [],
  );
});

t.test(
  'no service takes what others need, and each is restarted, stopped and logged with an end',
  async (t) => {
    t.same(
      failing(({ pids_limit = 0 }) => pids_limit > 0),
      [],
    );
    t.same(
      failing(({ mem_limit = '' }) => /^\d+[mg]$/.test(mem_limit)),
      [],
    );
    t.same(
      failing(({ cpus = 0 }) => cpus > 0),
      [],
    );
    t.same(
      failing(({ restart }, name) => restart === 'unless-stopped' || ONE_SHOT.includes(name)),
      [],
    );
    t.same(
      failing(({ stop_grace_period = '0s' }) => durationMs(stop_grace_period) > 0),
      [],
    );
    t.same(
      failing(({ logging }) => !!logging?.options['max-size'] && Number(logging.options['max-file']) > 0),
      [],
    );
  },
);

t.test('each has a health check, and Prometheus watches those that cannot', async (t) => {
  // The image of the service brings its own.
  const without = failing(({ healthcheck, build }) => healthcheck?.test !== undefined || build !== undefined);
  const allowed = [SETUP, LOAD, ...WITHOUT_SHELL].filter((name) => services[name]);
  t.same(without.toSorted(), allowed.toSorted());
  // `up --wait` would never end well.
  t.same(
    failing(({ healthcheck }, name) => !healthcheck?.disable || ONE_SHOT.includes(name)),
    [],
  );
  const targets = readText('prometheus/prometheus.yml');
  for (const name of WITHOUT_SHELL) t.match(targets, `${name}:`);
  t.match(readText('docker/Dockerfile'), /^HEALTHCHECK .*\n +CMD \["/m);
});

t.test('only nginx and, for this machine, Grafana can be reached', async (t) => {
  t.same(
    all.flatMap(([name, { ports = [] }]) => ports.map((port) => `${name} ${port}`)),
    ['nginx 80:8080', 'nginx 443:8443', 'grafana 127.0.0.1:3000:3000'],
  );
  t.match(nginx, 'listen 8080 default_server');
  t.match(nginx, 'listen 8443 ssl');
  // By IPv6 too, otherwise Docker is the client; but not where the kernel has none: nginx would not start.
  const server = /^ {2}listen (?!\[|127|8082)(.*;)\n {2}include \/tmp\/(listen-\w+)\.conf;$/gm;
  const servers = [...nginx.matchAll(server)];
  t.equal(servers.length, 3);
  for (const [, listens = '', name = ''] of servers) {
    t.equal(readInclude(t, name, { IF_INET6: '/dev/null' }), `listen [::]:${listens}\n`);
    t.equal(readInclude(t, name, { IF_INET6: '/none' }), '');
  }
});

t.test('each reaches those that it needs, and nobody else', async (t) => {
  const networksOf = ({ networks: own = [] }: ComposeService) =>
    Array.isArray(own) ? own : Object.keys(own);
  const members = (network: string) => all.filter(([, each]) => networksOf(each).includes(network));
  const namesIn = (network: string) => members(network).map(([name]) => name);
  const isClosed = (network: string) => {
    const { internal, driver_opts } = networks[network] ?? {};
    return internal === true || driver_opts?.['com.docker.network.bridge.enable_ip_masquerade'] === 'false';
  };
  t.same(
    Object.keys(networks).filter((name) => !isClosed(name)),
    ['egress'],
    'one way out',
  );
  t.same(namesIn('egress'), ['alertmanager']);
  t.same(namesIn('service'), ['api', 'nginx']);
  t.notOk(namesIn('data').includes('nginx'), 'nginx reaches no database');
  for (const name of DATABASES) t.same(networksOf(services[name] as ComposeService), ['data'], name);
  for (const name of ['nginx', 'api']) {
    for (const network of networksOf(services[name] as ComposeService))
      t.notOk(['monitoring', 'egress'].includes(network), `${name} is not in ${network}`);
  }
  // Prometheus scrapes the service, and listens where the service is not.
  t.same(
    namesIn('scrape').filter((name) => name !== LOAD),
    ['api', 'prometheus'],
  );
  const { prometheus } = services;
  const listens = prometheus?.command?.filter((option) => option.startsWith('--web.listen-address=')) ?? [];
  t.same(listens, ['--web.listen-address=monitoring.prometheus:9090', '--web.listen-address=127.0.0.1:9090']);
  t.match(prometheus?.networks, { monitoring: { aliases: ['monitoring.prometheus'] } });
  t.match(services.nginx?.networks, { service: { ipv4_address: envOf('api').TRUSTED_PROXIES } });
});

t.test('no container gets a volume that nobody named', async (t) => {
  // What these images declare as volumes.
  const declared: [image: RegExp, folder: string][] = [
    [/^postgres:/, '/var/lib/postgresql'],
    [/^redis:/, '/data'],
    [/^prom\/prometheus:/, '/prometheus'],
    [/^prom\/alertmanager:/, '/alertmanager'],
  ];
  for (const [image, folder] of declared) {
    const bare = failing(({ image: own, volumes = [], tmpfs = [] }) => {
      const mounts = [...volumes.map((each) => (typeof each === 'string' ? each : each.target)), ...tmpfs];
      return !image.test(own) || mounts.some((each) => each.split(':').includes(folder));
    });
    t.same(bare, [], folder);
  }
});

t.test('every image has one version', async (t) => {
  const isPinned = (image: string) => /:v?\d+\.\d+[\w.-]*$|@sha256:[0-9a-f]{64}$/.test(image);
  t.same(
    failing(({ image, build }) => build !== undefined || isPinned(image)),
    [],
  );
  t.notOk(isPinned('redis:8') || isPinned('redis') || isPinned('redis:latest'));
});

t.test('V8 is bounded by NODE_OPTIONS, which Node accepts', async (t) => {
  const options = String(envOf('api').NODE_OPTIONS);
  const ofImage = valueOf(/^ENV NODE_OPTIONS=(.+)$/m, readText('docker/Dockerfile'));
  t.match(ofImage, /^--max-semi-space-size=\d+$/);
  t.ok(options.startsWith(`${ofImage} `), 'what the image says of V8 is said again');
  const print = 'process.stdout.write(String(require("v8").getHeapStatistics().heap_size_limit / 2 ** 20))';
  const env = { NODE_OPTIONS: options };
  const { stdout, stderr } = spawnSync(process.execPath, ['-e', print], { env, encoding: 'utf8' });
  t.equal(stderr, '');
  t.ok(Number(stdout) < 0.75 * Number.parseInt(services.api?.mem_limit ?? '', 10), `${stdout} MB of heap`);
});

t.test('what the service is told exists, and its secrets are files', async (t) => {
  for (const name of ['api', 'migrate']) {
    for (const variable of Object.keys(envOf(name)).filter((each) => each !== 'NODE_OPTIONS')) {
      const known = VARIABLES.get(variable.replace(/_FILE$/, ''));
      t.ok(known, `${variable} is a variable of the service`);
      t.equal(known?.secret !== undefined, variable.endsWith('_FILE'), variable);
    }
  }
  const spoken = failing(({ environment = {} }) =>
    Object.keys(environment).every((key) => !/PASS|SECRET|TOKEN|KEY/i.test(key) || key.endsWith('_FILE')),
  );
  t.same(spoken, []);
  t.match(readText('docker/Dockerfile'), /USER 0:0\nWORKDIR \/app\nCOPY/, 'the code belongs to root');
  const postgres = JSON.stringify(services.postgres);
  t.notMatch(postgres, 'POSTGRES_PASSWORD', "the image's entrypoint would export it");
  t.match(nginx, `server api:${VARIABLES.get('API_PORT')?.default} `);
  t.match(readText('prometheus/prometheus.yml'), `port: ${VARIABLES.get('METRICS_PORT')?.default}`);
  t.equal(envOf('api').METRICS_HOST, '0.0.0.0', 'Prometheus is in another container');
});

/** What a backup is told, and the drill of a restore. */
const BACKUP_VARIABLES = [
  'BACKUP_AT',
  'BACKUP_KEEP_DAILY',
  'BACKUP_KEEP_WEEKLY',
  'BACKUP_KEEP_MONTHLY',
  'BACKUP_COPY_COMMAND',
  'RPO_GOAL_SECONDS',
  'RTO_GOAL_SECONDS',
];
/** What compose.yaml decides, as .env.example says. */
const FIXED = readText('.env.example')
  .replaceAll('\n# ', ' ')
  .split('\n')
  .flatMap((line, index, lines) =>
    line.includes('With compose it has no effect') ? [lines[index + 1] ?? ''] : [],
  )
  .map((line) => line.replace(/^#|=.*/g, ''));

t.test('every variable that is set for compose has its effect, or is refused by the preflight', async (t) => {
  const own = [...VARIABLES.values()];
  const secrets = own.filter(({ secret }) => secret).map(({ name }) => `${name}_FILE`);
  const names = [...VARIABLES.keys(), ...secrets, ...BACKUP_VARIABLES];
  const env = Object.fromEntries(names.map((name, index) => [name, `marker-${index}`]));
  const readers: [string, Compose][] = [['here', readCompose(env)]];
  const docker = requireTool(t, 'docker');
  if (docker) readers.push(['docker compose', readComposeByDocker(docker, env)]);

  for (const [reader, compose] of readers) {
    const { api, nginx: edge, backup } = compose.services;
    for (const { name, secret } of own) {
      const given = String(api?.environment?.[name]);
      if (!FIXED.includes(name)) t.equal(given, env[name], `${reader}: ${name}`);
      else t.notMatch(given, /^marker/, `${reader}: ${name} is fixed`);
      if (secret && name !== 'DATABASE_MIGRATION_URL') {
        t.equal(api?.environment?.[`${name}_FILE`], env[`${name}_FILE`], `${reader}: ${name}_FILE`);
      }
    }
    for (const name of BACKUP_VARIABLES) {
      t.equal(backup?.environment?.[name], env[name], `${reader}: ${name}`);
    }
    for (const name of ['MAX_REQUEST_SIZE_MB', 'REQUEST_TIMEOUT_SECONDS']) {
      t.equal(edge?.environment?.[name], env[name], `${reader}: ${name} of nginx`);
    }
  }
  const refused = valueOf(/^FIXED_BY_COMPOSE='([^']*)'/m, readText('scripts/deploy-preflight.sh'));
  t.same(refused.split(/\s+/).filter(Boolean), FIXED);
});

t.test('nginx takes as large a body, and waits a little longer, than the service', async (t) => {
  const CASES = [{}, { MAX_REQUEST_SIZE_MB: '0.001' }, { MAX_REQUEST_SIZE_MB: '2.345' }];
  for (const given of [...CASES, { MAX_REQUEST_SIZE_MB: '100', REQUEST_TIMEOUT_SECONDS: '90.5' }]) {
    const limits = readInclude(t, 'limits', given);
    const { http } = loadConfig({ ...given, DATABASE_URL }).config;
    t.match(limits, `client_max_body_size ${http.bodyLimitBytes};\n`);
    t.match(limits, `proxy_read_timeout ${http.requestTimeoutMs + 5000}ms;\n`);
  }
  const mounts = services.nginx?.volumes?.filter((volume) => typeof volume === 'string') ?? [];
  const mount = mounts.find((volume) => volume.startsWith('./nginx/limits.sh:'));
  t.match(mount, /:\/docker-entrypoint\.d\/\d+-limits\.sh:ro$/);
});

t.test('what is unset for compose is unset for the service', async (t) => {
  const docker = requireTool(t, 'docker');
  const compose = docker ? readComposeByDocker(docker) : readCompose();
  const told = Object.keys(compose.services.api?.environment ?? {});
  const expected = told.filter((name) => readCompose().services.api?.environment?.[name] !== undefined);
  t.same(told, expected);
  t.notOk(told.includes('CORS_ORIGINS'));
  t.notMatch(JSON.stringify(compose.services.backup?.environment), /BACKUP_(AT|KEEP|COPY)/);
});

t.test('each service finds the secrets that setup puts there, as a user that may read them', async (t) => {
  const puts = [...readText('docker/setup.sh').matchAll(/^ *put (\S+) (\d+:\d+) (\S+)/gm)];
  t.ok(puts.length > 15, 'they were really read');
  for (const [name, service] of all) {
    const mount = secretsOf(service);
    if (!mount || name === SETUP) continue;
    t.equal(mount.read_only, true, name);
    const folder = mount.volume?.subpath;
    const owners = puts.filter(([, put]) => put === folder).map(([, , owner]) => owner);
    t.same(
      [...new Set(owners)].filter((owner) => owner !== service.user),
      [],
      `${name} owns ${folder}`,
    );
    const told = JSON.stringify([service.environment, service.command]);
    for (const [, file] of told.matchAll(/\/run\/secrets\/([\w.]+)/g)) {
      const isThere = puts.some(([, put, , put_name]) => put === folder && put_name === file);
      t.ok(isThere || file === 'passphrase', `${name}: ${file}`);
    }
  }
});

t.test('limits add up', async (t) => {
  const env = Object.fromEntries(Object.entries(envOf('api')).filter(([key]) => !/_FILE$|^NODE_/.test(key)));
  const values = Object.fromEntries(Object.entries(env).map(([key, value]) => [key, String(value)]));
  const { config } = loadConfig({ ...values, DATABASE_URL });
  const { rateLimit, postgres, lifecycle, http } = config;

  const conf = readText('docker/postgres/postgresql.conf');
  const setting = (name: string) => Number(valueOf(new RegExp(`^${name} = (\\d+)`, 'm'), conf));
  const roles = [
    ...readText('docker/postgres/init/10-roles.sql').matchAll(
      /^create role (\w+).* connection limit (\d+)/gm,
    ),
  ];
  const reserve = roles.filter(([, role]) => role !== 'replicator').map(([, , limit]) => Number(limit));
  // One more replica than usual: a release.
  const most =
    (rateLimit.expectedReplicas + 1) * (postgres.poolMax + CONNECTIONS_OF_CHECKS) +
    setting('superuser_reserved_connections');
  const sum = reserve.reduce((total, limit) => total + limit, most);
  t.ok(
    roles.length >= 5 && sum <= 0.8 * setting('max_connections'),
    `${sum} of ${setting('max_connections')}`,
  );

  const grace = (name: string) => durationMs(services[name]?.stop_grace_period ?? '');
  t.ok(grace('api') >= shutdownBudgetMs(lifecycle), 'the service can drain');
  const last = durationMs(valueOf(/worker_shutdown_timeout (\w+)/, nginx));
  t.ok(last > http.requestTimeoutMs && grace('nginx') >= last, 'and so can nginx');
  const limits = readInclude(t, 'limits', {});
  t.ok(durationMs(valueOf(/proxy_read_timeout (\w+)/, limits)) > http.requestTimeoutMs);
  t.equal(Number(valueOf(/client_max_body_size (\d+)/, limits)), http.bodyLimitBytes);
  t.ok(
    lifecycle.drainDelayMs > durationMs(valueOf(/resolver \S+ valid=(\w+)/, nginx)),
    'nginx sees who leaves',
  );

  const edge = (name: string) => Number(valueOf(new RegExp(`^ *${name} (\\d+);`, 'm'), nginx));
  t.equal(edge('worker_processes'), services.nginx?.cpus, 'auto would count the cores of the host');
  t.ok(edge('worker_rlimit_nofile') >= 2 * edge('worker_connections'), 'a file for each side');
  const each = edge('limit_conn connections');
  t.ok(each >= 2 * 128, 'two connections of HTTP/2 may use all their streams');
  t.ok(each * 8 <= edge('worker_connections') * edge('worker_processes'), 'it takes many to fill nginx');

  const [, keeps = '', tells = ''] = /^ {2}keepalive_timeout (\w+) (\w+);/m.exec(nginx) ?? [];
  t.ok(durationMs(keeps) > durationMs(tells), 'clients close idle connections first');
  const upstream = valueOf(/upstream api \{([\s\S]*?)\n {2}\}/, nginx);
  const kept = durationMs(valueOf(/keepalive_timeout (\w+)/, upstream));
  const node = Number(
    valueOf(/KEEP_ALIVE_TIMEOUT_MS = ([\d_]+)/, readText('src/app.ts')).replaceAll('_', ''),
  );
  t.ok(kept < node, 'of a kept connection the side that reuses it is the one that closes it');
});

t.test('nothing starts before what it needs', async (t) => {
  t.match(services.api?.depends_on, {
    migrate: { condition: 'service_completed_successfully' },
    redis: { condition: 'service_healthy' },
    'redis-cache': { condition: 'service_healthy' },
  });
  t.match(services.migrate?.depends_on, { postgres: { condition: 'service_healthy' } });
  t.match(services.nginx?.depends_on, { api: { condition: 'service_healthy' } });
  for (const name of DATABASES) {
    t.match(services[name]?.depends_on, { setup: { condition: 'service_completed_successfully' } });
  }
  const needed = all.flatMap(([, { depends_on = {} }]) => Object.keys(depends_on));
  t.same(
    needed.filter((name) => !services[name]),
    [],
  );
  t.notOk(/prometheus|grafana|alertmanager|exporter/.test(needed.join()), 'no monitoring is needed to serve');
});

t.test('every host that Prometheus asks is a service', async (t) => {
  const text = readText('prometheus/prometheus.yml');
  const targets = [...text.matchAll(/([\w-]+):\d{4}|names: \[([\w-]+)\]|https:\/\/([\w-]+)\//g)];
  const hosts = targets.map(([, a, b, c]) => a ?? b ?? c ?? '').filter((host) => host !== 'localhost');
  t.ok(hosts.length >= 10);
  t.same(
    hosts.filter((host) => !services[host]),
    [],
  );
});
