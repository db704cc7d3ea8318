import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { createMetrics } from '../../src/observability/metrics.ts';
import type { RedisClient } from '../../src/redis/connection.ts';
import { openRedis } from '../../src/redis/redis.ts';
import { startTestApp } from '../support/app.ts';
import { createDatabase } from '../support/postgres.ts';
import { createAuthority } from '../support/certificates.ts';
import { allSay, ask, findFreePorts, startCluster, startSentinels } from '../support/redis-topology.ts';
import { startRedis, type RedisServer } from '../support/redis.ts';
import { repositoryDir } from '../support/servers.ts';
import { until } from '../support/until.ts';

const COMMAND_TIMEOUT_MS = 2000;
/** Needs a key, costs nothing else, and is 404 when it is let in. */
const ANYWHERE = '/v1/nowhere';
const FAILOVER_MS = 20_000;
/** What a command says that did not wait for its timeout. */
const AT_ONCE = { message: /^(Stream isn't writeable|Redis is not ready)/ };
/** Of ten keys some are on each of three primaries. */
const KEYS = Array.from({ length: 10 }, (_, index) => `key-${index}`);

function open(t: Test, url: string) {
  const lines: Record<string, string>[] = [];
  const log = pino({ messageKey: 'message' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const metrics = createMetrics('test');
  const redis = openRedis({ url, commandTimeoutMs: COMMAND_TIMEOUT_MS, role: 'limits' }, { log, metrics });
  t.teardown(() => redis.close());
  return { redis, lines, mends: () => lines.flatMap(({ mend }) => mend ?? []) };
}

/** The same, when it is ready and its subscription live. */
async function openListening(t: Test, url: string) {
  const opened = open(t, url);
  const heard: string[] = [];
  let gaps = 0;
  const subscription = opened.redis.subscribe('news', {
    onMessage: (message) => void heard.push(message),
    onGap: () => void (gaps += 1),
  });
  await until('it is ready and listens', () => opened.redis.ready() && subscription.live());
  return { ...opened, subscription, heard, gaps: () => gaps };
}

// They wait for failovers most of the time.
t.jobs = 2;

t.test('a cluster', { buffered: true }, async (t) => {
  const cluster = await startCluster(t);
  if (!cluster) return;

  await t.test('is ready when every primary is, and hears what is sent at any', async (t) => {
    const { redis: early } = open(t, cluster.url);
    const first = await new Promise((resolve) => early.onReady(() => resolve(writeAll(early))));
    t.same(
      first,
      KEYS.map(() => 'OK'),
      'no command is lost to a connection that comes too late',
    );

    const { redis, heard } = await openListening(t, cluster.url);
    t.equal(await redis.publish('news', 'a'), 1);
    for (const node of cluster.nodes) {
      await ask(node, (client) => client.publish('news', 'bcd'.charAt(cluster.nodes.indexOf(node))));
      await ask(node, (client) => client.script('FLUSH'));
    }
    t.equal(await redis.publish('news', 'e'), 1, 'by a script that had to be loaded again');
    await until('all are heard', () => heard.length === 5);
    t.same(heard.toSorted(), ['a', 'b', 'c', 'd', 'e']);

    const single = open(t, cluster.nodes[0]?.url ?? '');
    await until('a URL of one node is told', () =>
      single.mends().some((mend) => mend.includes('redis+cluster://')),
    );
  });

  await t.test('serves the service: limits, cache and keys', async (t) => {
    // With the rights that docs/redis.md names, and no others.
    const guide = readFileSync(join(repositoryDir, 'docs/redis.md'), 'utf8');
    const [, rule = ''] = /^ACL SETUSER (.+)$/m.exec(guide) ?? [];
    const rights = rule.replace('PASSWORD', 'secret').split(' ');
    for (const node of cluster.nodes) {
      await ask(node, (client) => client.call('ACL', 'SETUSER', ...rights));
    }
    const env = {
      DATABASE_URL: await createDatabase(t),
      REDIS_URL: cluster.url.replace('://', `://${rights[0]}:secret@`),
      REDIS_COMMAND_TIMEOUT_MS: String(COMMAND_TIMEOUT_MS),
      EXPECTED_REPLICAS: '2',
    };
    const [one, other] = [await startTestApp(t, env), await startTestApp(t, env)];
    const services = [one.services, other.services];
    await until('Redis is there', () => services.every(({ health }) => health.redisState() === 'connected'));

    const limited = await one.issueKey({ limitPerMinute: 6 });
    const statuses: number[] = [];
    for (let turn = 0; turn < 10; turn += 1) {
      const { request } = turn % 2 === 0 ? one : other;
      statuses.push((await request('GET', ANYWHERE, { token: limited.token })).status);
    }
    t.same(statuses, [...Array<number>(6).fill(404), ...Array<number>(4).fill(429)], 'one limit for both');

    for (const id of KEYS) {
      const key = { tenant: 'acme', name: 'thing', id };
      t.equal(await one.services.cache.get(key, async () => 'old'), 'old');
      await until('it is in Redis', async () => (await other.services.cache.get(key, missing)) === 'old');
      await one.services.cache.invalidate(key);
      t.equal(await one.services.cache.get(key, async () => 'new'), 'new');
      await until('all know', async () => (await other.services.cache.get(key, missing)) === 'new');
    }

    const { token: admin } = await one.issueKey();
    for (let turn = 0; turn < 20; turn += 1) {
      const { id, token } = await one.issueKey();
      t.equal((await other.request('GET', ANYWHERE, { token })).status, 404);
      t.equal((await one.request('DELETE', `/v1/api-keys/${id}`, { token: admin })).status, 204);
      t.equal((await other.request('GET', ANYWHERE, { token })).status, 401, 'refused at once');
    }
    const warnings = [...one.logs, ...other.logs].filter(({ level }) => level !== 'info');
    t.same(warnings, [], 'and nobody complains');
  });

  await t.test('moves the primary, and the subscription goes with it', async (t) => {
    const { redis, subscription, heard, gaps } = await openListening(t, cluster.url);
    const replica = await cluster.addReplica(await cluster.primaryOf('hp:publish'));
    await ask(replica, (client) => client.cluster('FAILOVER'));
    await until('it has noticed', () => gaps() > 1);
    await until('it is back', () => subscription.live());
    t.equal(await redis.publish('news', 'after'), 1, 'sender and listener are at one node');
    await until('it is heard', () => heard.length === 1);
    t.same(
      await writeAll(redis),
      KEYS.map(() => 'OK'),
    );
  });

  await t.test('loses a primary: its keys at once, and all when it says so, until it is back', async (t) => {
    const { redis, lines, mends } = await openListening(t, cluster.url);
    const primaries = await Promise.all(['hp:publish', ...KEYS].map(cluster.primaryOf));
    // The one of the messages has a replica by now.
    const lost = primaries.find((node) => node !== primaries[0]);
    if (!lost) throw new Error('the keys are on one node');
    await lost.stop();
    await until('its connection is lost', async () =>
      (await writeAll(redis)).includes('Connection is closed.'),
    );
    const replies = new Set(await writeAll(redis));
    t.same(
      [...replies].toSorted(),
      ['Connection is closed.', 'OK'],
      'nothing waits, other keys are not touched',
    );
    t.ok(redis.ready());
    await until('it is told', () => lines.some(({ message }) => message?.startsWith('A node')));

    await until('the cluster is down', async () => (await writeAll(redis), !redis.ready()), FAILOVER_MS);
    await until('it is told', () => mends().some((mend) => mend.includes('slots that no node serves')));
    await lost.start();
    const isWhole = async () => redis.ready() && (await writeAll(redis)).every((reply) => reply === 'OK');
    await until('all keys are served', isWhole, FAILOVER_MS);
  });
});

t.test(
  'after a failover the handle and its subscription are back, on the new primary',
  { buffered: true },
  async (t) => {
    const setup = await startSentinels(t);
    if (!setup) return;
    const { redis, subscription, heard } = await openListening(t, setup.url);
    redis.client.defineCommand('countOne', { numberOfKeys: 1, lua: "return redis.call('incr', KEYS[1])" });
    const count = () =>
      (redis.client as unknown as { countOne(key: string): Promise<number> }).countOne('count');
    t.equal(await redis.publish('news', 'before'), 1);
    t.equal(await count(), 1);
    const has = () => ask(setup.replica, (client) => client.exists('count'));
    await until('it is replicated', async () => (await has()) === 1);

    await setup.primary.stop();
    await until('the loss is noticed', () => !redis.ready() && !subscription.live());
    await t.rejects(redis.client.set('key', 'value'), AT_ONCE, 'nothing waits for the failover');
    await t.rejects(redis.publish('news', 'lost'), AT_ONCE);

    await until('both are back', () => redis.ready() && subscription.live(), FAILOVER_MS);
    const role = await ask(setup.replica, (client) => client.call('ROLE'));
    t.match(role, ['master'], 'they are at the one that took over');
    t.equal(await count(), 2, 'a script is loaded again, and what was replicated is there');
    t.equal(await redis.client.set('key', 'value'), 'OK');
    t.equal(await redis.publish('news', 'after'), 1);
    await until('it is heard', () => heard.length === 2);
    t.same(heard, ['before', 'after']);
  },
);

t.test('a primary that became a replica and kept its connections is left', { buffered: true }, async (t) => {
  const setup = await startSentinels(t);
  if (!setup) return;
  const { redis, subscription, heard, gaps } = await openListening(t, setup.url);
  // The first one does not know it yet.
  for (const sentinel of setup.sentinels.slice(1)) {
    await ask(sentinel, async (client) => {
      await client.call('SENTINEL', 'REMOVE', 'primary');
      await client.call('SENTINEL', 'MONITOR', 'primary', '127.0.0.1', setup.replica.port, 2);
    });
  }
  await ask(setup.replica, (client) => client.replicaof('NO', 'ONE'));
  await ask(setup.primary, (client) => client.replicaof('127.0.0.1', setup.replica.port));
  t.ok(redis.ready(), 'nobody cut the connections');
  await t.rejects(redis.publish('news', 'lost'), 'a message is not taken by a replica');

  await until('the subscription notices', () => gaps() > 1);
  await until('both are at the new primary', () => redis.ready() && subscription.live(), FAILOVER_MS);
  t.equal(await redis.publish('news', 'heard'), 1);
  t.equal(await redis.client.set('key', 'value'), 'OK');
  await until('it is heard', () => heard.includes('heard'));
});

t.test('sentinels may be wrong, know another name or ask for a login', { buffered: true }, async (t) => {
  const setup = await startSentinels(t);
  if (!setup) return;
  const [first] = setup.sentinels;
  if (first) {
    await ask(first, async (client) => {
      await client.call('SENTINEL', 'REMOVE', 'primary');
      await client.call('SENTINEL', 'MONITOR', 'primary', '127.0.0.1', setup.replica.port, 2);
    });
  }
  const { redis } = await openListening(t, setup.url);
  t.equal(await redis.client.set('key', 'value'), 'OK', 'the next one was asked');

  const stranger = open(t, setup.url.replace('/primary', '/other'));
  await until('the name is told', () =>
    stranger.mends().some((mend) => mend.includes('sentinel monitor NAME')),
  );

  for (const sentinel of setup.sentinels) {
    await ask(sentinel, (client) => client.call('ACL', 'SETUSER', 'default', 'resetpass', '>canary-9b2e'));
  }
  const shut = [open(t, setup.url), open(t, `${setup.url}?sentinel_password=canary-0000`)];
  const isTold = ({ mends }: (typeof shut)[0]) =>
    mends().some((mend) => mend.includes('?sentinel_password='));
  await until('the login is told', () => shut.every(isTold));
  const { lines } = await openListening(t, `${setup.url}?sentinel_password=canary-9b2e`);
  t.notMatch(JSON.stringify([lines, ...shut.map((each) => each.lines)]), /canary/);
  t.notOk(shut.some((each) => each.redis.ready()));
});

t.test('TLS is verified, to servers, sentinels and nodes alike', { buffered: true }, async (t) => {
  const authority = createAuthority(t);
  const plain = authority && (await startRedis(t, { asProcess: true }));
  if (!plain) return;
  async function start(names: string, days?: number, args: string[] = []): Promise<TlsServer> {
    const { certificate, key } = authority?.issue(names, days) ?? { certificate: '', key: '' };
    const files = [
      '--tls-cert-file',
      certificate,
      '--tls-key-file',
      key,
      '--tls-ca-cert-file',
      authority?.file ?? '',
    ];
    const [port, tlsPort = 0] = await findFreePorts(2);
    const tls = ['--tls-port', String(tlsPort), ...files, '--tls-auth-clients', 'no'];
    const server = await startRedis(t, { ...(port && { port }), args: [...args, ...tls] });
    if (!server) throw new Error('another was started');
    return { server, tlsPort };
  }

  const good = await start('IP:127.0.0.1');
  const other = await start('DNS:redis.example.com');
  const expired = await start('IP:127.0.0.1', -1);
  const config = join(
    t.testdir({ 'sentinel.conf': `sentinel monitor main 127.0.0.1 ${good.tlsPort} 1\n` }),
    'sentinel.conf',
  );
  const sentinel = await start('IP:127.0.0.1', 1, [config, '--sentinel', '--tls-replication', 'yes']);
  const nodeFiles = ['--dir', t.testdirName, '--cluster-config-file', 'node.conf'];
  const nodeArgs = ['--cluster-enabled', 'yes', '--tls-cluster', 'yes', '--cluster-announce-ip', '127.0.0.1'];
  const node = await start('IP:127.0.0.1', 1, [...nodeArgs, ...nodeFiles]);
  await ask(node.server, (client) => client.cluster('ADDSLOTS', ...Array(16_384).keys()));
  await until('the cluster is whole', () => allSay([node.server], 'INFO', /cluster_state:ok/));

  const expectations: [string, 'OK' | 'refused', RegExp?][] = [
    [`rediss://127.0.0.1:${good.tlsPort}`, 'OK'],
    [`rediss+sentinel://127.0.0.1:${sentinel.tlsPort}/main`, 'OK'],
    [`rediss+cluster://127.0.0.1:${node.tlsPort}`, 'OK'],
    [`rediss://127.0.0.1:${other.tlsPort}`, 'refused', /for another host name/],
    [`rediss+sentinel://127.0.0.1:${other.tlsPort}/main`, 'refused', /for another host name/],
    [`rediss+cluster://127.0.0.1:${other.tlsPort}`, 'refused', /for another host name/],
    [`rediss://127.0.0.1:${expired.tlsPort}`, 'refused', /has expired/],
    [`rediss+cluster://127.0.0.1:${expired.tlsPort}`, 'refused', /has expired/],
    [`rediss://127.0.0.1:${plain.port}`, 'refused', /TLS \(rediss:\/\/\) not spoken/],
    [`redis://127.0.0.1:${good.tlsPort}`, 'refused', /expects TLS/],
  ];
  const script = fileURLToPath(new URL('./redis-client.ts', import.meta.url));
  const urls = expectations.map(([url]) => url);
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', script, ...urls], {
    env: { ...process.env, NODE_EXTRA_CA_CERTS: authority?.file },
  });
  const reports = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  for (const [url, written, mend] of expectations) {
    const report = reports.find((each) => each.url === url);
    t.match(report, { url, written, mends: mend ? [mend] : [] }, JSON.stringify(report));
  }
});

interface TlsServer {
  server: RedisServer;
  tlsPort: number;
}

async function missing(): Promise<undefined> {
  return undefined;
}

async function writeAll({ client }: { client: RedisClient }): Promise<string[]> {
  const results = await Promise.allSettled(KEYS.map((key) => client.set(key, 'value')));
  return results.map((result) =>
    result.status === 'fulfilled' ? result.value : (result.reason as Error).message,
  );
}
