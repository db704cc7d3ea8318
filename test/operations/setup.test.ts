import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { Client } from 'pg';
import t, { type Test } from 'tap';
import { findFreePort } from '../../tools/dev/free-port.ts';
import { loadConfig } from '../../src/config/config.ts';
import { parseRedisUrl } from '../../src/redis/url.ts';
import { startClientPostgres } from '../support/client-postgres.ts';
import { makeDataFolder } from '../support/folders.ts';
import { forgetProcess, registerProcess, signalTree } from '../support/processes.ts';
import { withClient } from '../support/postgres.ts';
import { startRedis } from '../support/redis.ts';
import { pathWith, runScript, temporaryFolder } from '../support/scripts.ts';
import { repositoryDir } from '../support/servers.ts';
import { requireTool } from '../support/tools.ts';
import { until } from '../support/until.ts';

// docker/setup.sh and docker/redis/sentinel.sh, run here: only their folders are replaced.

const NAMES = [
  'postgres migrator app readonly backup replicator monitor redis redis_monitor redis_replication sentinel grafana',
].flatMap((names) => names.split(' ').map((name) => `${name}_password`));

/** Holds what each of the places that it is written to has a meaning for. */
const ODD = `p/w?x=1#f@h:5 %41%+"q" \\n \\\\ 'l' $HOME \`id\` {j},;é`;

/** What setup makes of these files of ./secrets; the text of a file in the volume. */
async function setUp(t: Test, given: Record<string, string | Buffer>) {
  const folder = temporaryFolder(t);
  for (const name of ['given', 'store', 'tls', 'owned/backups', 'owned/metrics'])
    mkdirSync(join(folder, name), { recursive: true });
  for (const [name, text] of Object.entries(given)) writeFileSync(join(folder, 'given', name), text);
  const script = readFileSync(join(repositoryDir, 'docker/setup.sh'), 'utf8')
    .replaceAll(/=\/(given|store|tls)\b/g, `=${folder}/$1`)
    .replaceAll('/owned/', `${folder}/owned/`)
    .replaceAll('/setup/', `${repositoryDir}/docker/`)
    .replaceAll('/scripts/', `${repositoryDir}/scripts/`);
  writeFileSync(join(folder, 'setup.sh'), script);
  const PATH = pathWith(t, { chown: '' });
  const result = await runScript(t, '/bin/sh', [join(folder, 'setup.sh')], { PATH });
  const path = (name: string) => join(folder, 'store', name);
  return { ...result, path, text: (name: string) => readFileSync(path(name), 'utf8').replace(/\n$/, '') };
}

t.test('a given password reaches each place as it is, whatever characters it has', async (t) => {
  if (!requireTool(t, 'openssl')) return;
  const { code, stderr, path, text } = await setUp(
    t,
    Object.fromEntries(NAMES.map((name) => [name, `${ODD}\n`])),
  );
  t.equal(code, 0, stderr);

  for (const name of [
    'api/database_url',
    'api/database_url_pgbouncer',
    'api/database_url_replica',
    'migrate/database_url',
  ]) {
    const { url } = loadConfig({ DATABASE_URL: text(name) }).config.postgres;
    t.equal(new Client(url).password, ODD, name);
  }
  for (const name of ['api/redis_url', 'api/redis_url_sentinel', 'api/redis_cache_url']) {
    const target = parseRedisUrl(text(name), (reason) => t.fail(`${name} ${reason}`));
    t.equal(target?.password, ODD, name);
  }
  t.same(new Set(Object.values(JSON.parse(text('redis-exporter/passwords.json')))), new Set([ODD]));
  for (const name of ['postgres/app', 'backup/password', 'grafana/password', 'postgres-exporter/password'])
    t.equal(text(name), ODD, name);

  await t.test('Postgres, .pgpass and PgBouncer', async (t) => {
    const postgres = await startClientPostgres(t, text('postgres/app'));
    if (!postgres) return;
    const direct = new URL(text('api/database_url'));
    direct.host = `127.0.0.1:${postgres.port}`;
    const asked = await withClient(direct.href, (client) => client.query('select current_user'));
    t.equal(asked.rows[0]?.current_user, 'app');

    const psql = spawnSync(
      join(postgres.bin, 'psql'),
      [
        '-XqAtw',
        '-h',
        '127.0.0.1',
        '-p',
        String(postgres.port),
        '-U',
        'replicator',
        '-c',
        'select 1',
        'postgres',
      ],
      { env: { PATH: process.env.PATH, PGPASSFILE: path('replica/pgpass') }, encoding: 'utf8' },
    );
    t.equal(psql.stdout, '1\n', psql.stderr);

    const program = requireTool(t, 'pgbouncer');
    if (!program) return;
    const port = await startPgBouncer(t, program, postgres.port, text('pgbouncer/userlist.txt'));
    const pooled = new URL(text('api/database_url_pgbouncer'));
    pooled.host = `127.0.0.1:${port}`;
    const select = () => withClient(pooled.href, (client) => client.query('select current_user'));
    let last: unknown;
    const answers = () =>
      select().then(
        () => true,
        (error: unknown) => {
          last = error;
          return false;
        },
      );
    await until('PgBouncer lets the service in', answers, 15_000).catch((error) => {
      throw new Error(`${(error as Error).message}: ${String(last)}`, { cause: last });
    });
  });

  await t.test('Redis, its replica and its sentinels', async (t) => {
    const [users, replication] = [path('redis/users.acl'), path('redis/replication.conf')];
    const primary = await startRedis(t, { args: ['--aclfile', users], asProcess: true });
    if (!primary) return;
    const replica = await startRedis(t, {
      args: [replication, '--aclfile', users, '--replicaof', '127.0.0.1', String(primary.port)],
      asProcess: true,
    });
    const target = parseRedisUrl(text('api/redis_url'), () => undefined);
    const connect = (port: number, username: string) =>
      new Redis({ port, username, password: target?.password ?? '', lazyConnect: true, retryStrategy: null });
    const [service, monitor] = [connect(primary.port, 'app'), connect(replica?.port ?? 0, 'monitor')];
    t.teardown(() => [service, monitor].forEach((client) => client.disconnect()));
    t.equal(await service.ping(), 'PONG');
    await until(
      'the replica follows',
      async () => /master_link_status:up/.test(await monitor.info('replication')),
      20_000,
    );

    const folder = temporaryFolder(t);
    const script = readFileSync(join(repositoryDir, 'docker/redis/sentinel.sh'), 'utf8');
    const places = script.replaceAll('/data', folder).replaceAll('/run/secrets', path('sentinel'));
    writeFileSync(join(folder, 'sentinel.sh'), places);
    const run = await runScript(t, '/bin/sh', [join(folder, 'sentinel.sh')], {
      PATH: pathWith(t, { 'redis-server': '' }),
    });
    t.equal(run.code, 0, run.stderr);
    // The quotes are those that masterauth was just read with.
    const auth = readFileSync(replication, 'utf8').replace(/^[^]*masterauth /, 'sentinel auth-pass limits ');
    t.match(readFileSync(join(folder, 'sentinel.conf'), 'utf8'), `\n${auth}`);
  });
});

t.test('a secret is the same however its file was written, and what is odd is refused by name', async (t) => {
  if (!requireTool(t, 'openssl')) return;
  const secret = 'kT3vQ9zR1xW8mB5nL0pY7cJ2hG6fD4sA';
  const SAME = ['\uFEFF', ' ', ''].flatMap((before) =>
    ['', '\n', '\r\n', ' \t\r\n\n'].map((after) => [before, after]),
  );
  const given = Object.fromEntries(
    SAME.map(([before, after], index) => [NAMES[index] ?? '', `${before}${secret}${after}`]),
  );
  const { code, stderr, text } = await setUp(t, given);
  t.equal(code, 0, stderr);
  for (const name of Object.keys(given)) t.equal(text(`all/${name}`), secret, JSON.stringify(given[name]));

  const ODD_FILES: [string | Buffer, RegExp][] = [
    ['\n', /is empty; write the secret, or remove the file/],
    [`${secret}\nsecond`, /has more than one line; write one/],
    [`${secret}\0`, /is not UTF-8 text; save it as UTF-8/],
    [Buffer.from(secret, 'utf16le'), /is not UTF-8 text/],
    [Buffer.from(`\uFEFF${secret}`, 'utf16le'), /is not UTF-8 text/],
    [Buffer.from([0xe9, 0x41]), /is not UTF-8 text/],
    [`a\u0007${secret}`, /contains a control character/],
    [`a\uFEFF${secret}`, /contains a control character/],
  ];
  for (const [file, says] of ODD_FILES) {
    const refused = await setUp(t, { app_password: file });
    t.not(refused.code, 0);
    t.match(refused.stderr, /error: the secret in \S+\/given\/app_password /);
    t.match(refused.stderr, says);
    t.notMatch(refused.stderr, secret.slice(0, 8), 'and is not shown');
    t.notOk(existsSync(refused.path('api/database_url')));
  }
});

/** As docker/pgbouncer has it, with this list of users. */
async function startPgBouncer(
  t: Test,
  program: string,
  postgresPort: number,
  users: string,
): Promise<number> {
  const folder = makeDataFolder('hardpoint-pgbouncer-');
  chmodSync(folder, 0o755);
  const port = await findFreePort();
  const config = readFileSync(join(repositoryDir, 'docker/pgbouncer/pgbouncer.ini'), 'utf8')
    .replace('host=postgres port=5432', `host=127.0.0.1 port=${postgresPort}`)
    .replace('listen_addr = *', 'listen_addr = 127.0.0.1')
    .replace('listen_port = 6432', `listen_port = ${port}`)
    .replace('/run/secrets/', `${folder}/`);
  writeFileSync(join(folder, 'pgbouncer.ini'), config, { mode: 0o644 });
  writeFileSync(join(folder, 'userlist.txt'), `${users}\n`, { mode: 0o644 });
  // It refuses to run as root.
  const account = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {};
  const { pid = 0 } = spawn(program, ['-q', join(folder, 'pgbouncer.ini')], { stdio: 'ignore', ...account });
  registerProcess(pid, 'pgbouncer', folder);
  t.teardown(() => {
    signalTree(pid, 'SIGKILL');
    forgetProcess(pid);
  });
  return port;
}
