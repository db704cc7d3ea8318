import { execFileSync } from 'node:child_process';
import type { EventEmitter } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect, createServer, type AddressInfo, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { createServer as createTlsServer } from 'node:tls';
import { Redis } from 'ioredis';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { createMetrics } from '../../src/observability/metrics.ts';
import { redisOptions } from '../../src/redis/connection.ts';
import {
  explainFailure,
  findServerProblems,
  findSharedServer,
  parseInfo,
  type RedisRole,
} from '../../src/redis/problems.ts';
import { parseRedisUrl } from '../../src/redis/url.ts';
import { openRedis } from '../../src/redis/redis.ts';
import { startTestApp } from '../support/app.ts';
import { createDatabase } from '../support/postgres.ts';
import { redisUrl, startRedis } from '../support/redis.ts';
import { spawnService } from '../support/service.ts';
import { startStopwatch } from '../support/stopwatch.ts';
import { startTcpProxy } from '../support/tcp-proxy.ts';
import { requireTool } from '../support/tools.ts';
import { until as waitUntil } from '../support/until.ts';

const COMMAND_TIMEOUT_MS = 150;
const SLACK_MS = 50;

function open(t: Test, url: string, role: RedisRole = 'limits') {
  const lines: Record<string, string>[] = [];
  const log = pino({ messageKey: 'message' }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  const metrics = createMetrics('test');
  const redis = openRedis({ url, commandTimeoutMs: COMMAND_TIMEOUT_MS, role }, { log, metrics });
  t.teardown(() => redis.close());
  const isUp = async () => /redis_up\{role="limits"\} 1/.test(await metrics.registry.metrics());
  return { redis, lines, isUp };
}

const until = (condition: () => boolean | Promise<boolean>, timeoutMs?: number) =>
  waitUntil(String(condition), condition, timeoutMs);

async function timed(work: Promise<unknown>): Promise<{ tookMs: number; failed: boolean }> {
  const stopwatch = startStopwatch();
  const failed = await work.then(
    () => false,
    () => true,
  );
  return { tookMs: stopwatch().ms, failed };
}

async function listen(t: Test, server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => new Promise((resolve) => server.close(resolve)));
  return (server.address() as AddressInfo).port;
}

t.test('the connection is set up to fail fast and to keep trying', async (t) => {
  const target = parseRedisUrl('redis://:secret@redis', () => undefined);
  if (!target) throw new Error('the URL is good');
  const options = redisOptions(target, 200, 'hardpoint-limits');

  t.match(options, {
    connectionName: 'hardpoint-limits',
    connectTimeout: 1000,
    socketTimeout: 1000,
    keepAlive: 10_000,
    enableOfflineQueue: false,
    enableReadyCheck: true,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
  });
  const delays = [1, 2, 5, 10, 1000, 1e6].map((attempt) => options.retryStrategy(attempt));
  t.ok(
    delays.every((each) => each >= 25 && each <= 2000),
    `delays ${delays.join(' ')}`,
  );
});

t.test('Redis that is away at the start, or goes and returns, heals without a restart', async (t) => {
  const server = await startRedis(t);
  if (!server) return;
  await server.stop();
  const { redis, lines, isUp } = open(t, server.url);

  await until(() => lines.length > 0);
  const refused = await timed(redis.client.get('key'));
  t.ok(
    refused.failed && refused.tookMs < SLACK_MS,
    `a command fails at once (${refused.tookMs.toFixed(1)} ms)`,
  );
  t.notOk(redis.ready());
  t.notOk(await isUp());

  await server.start();
  await until(() => redis.ready());
  t.equal(await redis.client.set('key', 'value'), 'OK');
  await until(isUp);

  await server.stop();
  await until(() => !redis.ready());
  t.notOk(await isUp());
  await delay(600);
  const warnings = lines.filter(({ message }) => message?.includes('cannot be used'));
  t.equal(warnings.length, 1, 'one line a minute for two outages of one cause');

  await server.start();
  await until(() => redis.ready());
  t.equal(await redis.client.get('key'), null);
});

t.test('a process that looks away while it connects has not lost Redis', async (t) => {
  const url = await redisUrl(t);
  if (!url) return;
  const { redis, lines } = open(t, url);
  (redis.client as EventEmitter).once('connect', () => {
    const endMs = performance.now() + 2 * COMMAND_TIMEOUT_MS;
    while (performance.now() < endMs);
  });

  await until(() => redis.ready());
  t.same(
    lines.map(({ message }) => message),
    ['Redis is ready'],
  );
});

t.test('a connection that comes and goes does not fill the log', async (t) => {
  const server = await startRedis(t, { args: ['--maxmemory', '64mb', '--maxmemory-policy', 'allkeys-lru'] });
  if (!server) return;
  const { redis, lines, isUp } = open(t, server.url);
  const admin = open(t, server.url);
  for (let turn = 0; turn < 12; turn += 1) {
    await until(() => redis.ready() && admin.redis.ready());
    const id = await redis.client.client('ID');
    await admin.redis.client.client('KILL', 'ID', id);
    await until(() => !redis.ready());
  }
  await until(isUp);

  t.equal(lines.filter(({ mend }) => mend?.includes('noeviction')).length, 1);
  t.ok(lines.length <= 4, `${lines.length} lines`);
});

t.test('connections that are reset again and again are one line, which does not blame TLS', async (t) => {
  const server = await startRedis(t);
  if (!server) return;
  let resets = 0;
  const port = await listen(
    t,
    createServer((socket) => {
      const upstream = connect(server.port, '127.0.0.1');
      socket.on('error', () => upstream.destroy()).pipe(upstream);
      upstream.on('error', () => undefined).pipe(socket);
      setTimeout(() => socket.resetAndDestroy(), 100);
      resets += 1;
    }),
  );
  const { logs, request, issueKey } = await startTestApp(t, { REDIS_URL: `redis://127.0.0.1:${port}` });
  const { token } = await issueKey();
  await until(async () => {
    await request('GET', '/v1/nowhere', { token });
    return resets > 40;
  });

  const lines = logs.filter(({ level }) => level === 'warn' || level === 'error');
  t.ok(lines.length <= 12, `${lines.length} lines: ${lines.map(({ message }) => message).join('; ')}`);
  t.notMatch(JSON.stringify(lines), /TLS/);
});

t.test('a server that takes no writes is degraded, and the log says what to do', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hardpoint-redis-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const server = await startRedis(t, { args: ['--dir', dir] });
  if (!server) return;
  const admin = new Redis(server.url);
  t.teardown(() => admin.disconnect());
  const { services, logs, request } = await startTestApp(t, { REDIS_URL: server.url });
  const state = () => services.health.redisState();
  await until(() => state() === 'connected');
  const cases: { mend: RegExp; happen: () => Promise<unknown>; heal: () => Promise<unknown> }[] = [
    {
      mend: /is full: raise maxmemory/,
      happen: () => admin.config('SET', 'maxmemory', '1'),
      heal: () => admin.config('SET', 'maxmemory', '0'),
    },
    {
      mend: /cannot save to its disk/,
      happen: async () => {
        // Where its dump shall go there is a folder: it cannot save.
        mkdirSync(join(dir, 'dump.rdb', 'taken'), { recursive: true });
        await admin.config('SET', 'save', '3600 1');
        await admin.bgsave();
      },
      heal: () => admin.config('SET', 'save', ''),
    },
    {
      mend: /fewer replicas than/,
      happen: () => admin.config('SET', 'min-replicas-to-write', '1'),
      heal: () => admin.config('SET', 'min-replicas-to-write', '0'),
    },
    {
      mend: /is a replica/,
      happen: () => admin.replicaof('127.0.0.1', '1'),
      heal: () => admin.replicaof('NO', 'ONE'),
    },
  ];
  for (const { mend, happen, heal } of cases) {
    await happen();
    await until(() => state() === 'degraded');
    const { json } = await request('GET', '/health');
    t.equal(json.status, 'degraded', `${mend}`);
    t.not(json.redis, 'connected');
    await until(async () => (await services.status.read()).redis.limits !== 'connected');
    await until(() => logs.some((line) => mend.test(String(line.mend))));
    await heal();
    await until(() => state() === 'connected');
  }
});

t.test('a user that may not ask for INFO is served, and nothing is printed but JSON', async (t) => {
  const server = await startRedis(t);
  if (!server) return;
  const admin = new Redis(server.url);
  t.teardown(() => admin.disconnect());
  await admin.call('ACL', 'SETUSER', 'app', 'on', '>secret', '~*', '&*', '+@all', '-info');
  const service = spawnService(t, {
    DATABASE_URL: await createDatabase(t),
    REDIS_URL: `redis://app:secret@127.0.0.1:${server.port}`,
  });

  await until(() => service.logs.some(({ message }) => message === 'Redis is ready'));
  await until(() => service.logs.some(({ message }) => String(message).includes('INFO')));
  t.equal(service.stderr(), '');
});

t.test('Redis that hangs costs one command timeout, then nothing, and comes back', async (t) => {
  const server = await startRedis(t);
  if (!server) return;
  const { redis } = open(t, server.url);
  await until(() => redis.ready());

  server.freeze();
  const first = await timed(redis.client.get('key'));
  t.ok(first.failed && first.tookMs < COMMAND_TIMEOUT_MS + SLACK_MS, `${first.tookMs.toFixed(0)} ms`);
  await until(() => !redis.ready(), 2000);
  await until(() => redis.client.status !== 'ready');
  const later = await timed(redis.client.get('key'));
  t.ok(later.failed && later.tookMs < SLACK_MS, `then ${later.tookMs.toFixed(1)} ms`);
  const closing = open(t, server.url);
  const closed = await timed(closing.redis.close());
  t.ok(closed.tookMs < 700, `closing a client of a hanging server takes ${closed.tookMs.toFixed(0)} ms`);

  server.thaw();
  await until(() => redis.ready());
  t.equal(await redis.client.ping(), 'PONG');

  server.freeze();
  const goodbye = await timed(redis.close());
  t.ok(goodbye.tookMs < 700, `and one that was ready ${goodbye.tookMs.toFixed(0)} ms`);
  server.thaw();
});

t.test('a server whose replies come too late is not used until they are in time', async (t) => {
  const server = await startRedis(t);
  if (!server) return;
  const proxy = await startTcpProxy(t, server.port);
  const { redis, isUp } = open(t, `redis://127.0.0.1:${proxy.port}`);
  await until(() => redis.ready());
  let lost = 0;
  (redis.client as EventEmitter).on('close', () => (lost += 1));

  proxy.delayMs = 2 * COMMAND_TIMEOUT_MS;
  await redis.client.get('key').catch(() => undefined);
  await until(() => redis.state() === 'disconnected', 5_000);
  t.notOk(await isUp());
  t.notOk(redis.ready());
  const { failed, tookMs } = await timed(redis.publish('news', 'lost'));
  t.ok(failed && tookMs < SLACK_MS, `meanwhile a message takes ${tookMs.toFixed(1)} ms`);

  proxy.delayMs = 0;
  await until(() => redis.state() === 'connected', 5_000);
  t.ok(await isUp());
  t.equal(await redis.client.get('key'), null);
  t.equal(lost, 0, 'on the same connection');
});

t.test('a server that accepts connections and says nothing is never waited for', async (t) => {
  const port = await listen(
    t,
    createServer((socket) => void socket.on('error', () => undefined).resume()),
  );
  const { redis, lines } = open(t, `redis://127.0.0.1:${port}`);

  await until(() => lines.length > 0);
  const { failed, tookMs } = await timed(redis.client.get('key'));
  t.ok(failed && tookMs < SLACK_MS, `${tookMs.toFixed(1)} ms`);
  t.notOk(redis.ready());
  await redis.close();
});

t.test('a wrong password is one clear line, without the password, and heals when it is mended', async (t) => {
  const server = await startRedis(t, { args: ['--requirepass', 'the-right-one'] });
  if (!server) return;
  const { redis, lines } = open(t, `redis://:canary-7f3a@127.0.0.1:${server.port}`);
  const admin = open(t, `redis://:the-right-one@127.0.0.1:${server.port}`);

  await until(() => lines.some(({ mend }) => mend !== undefined));
  await delay(500);
  t.notOk(redis.ready());
  t.equal(lines.filter(({ mend }) => mend?.includes('password in the URL is wrong')).length, 1);
  t.notMatch(JSON.stringify(lines), 'canary-7f3a');

  await until(() => admin.redis.ready());
  await admin.redis.client.config('SET', 'requirepass', 'canary-7f3a');
  await until(() => redis.ready());
});

t.test('a database number that does not exist is refused, not replaced by 0', async (t) => {
  const server = await startRedis(t);
  if (!server) return;
  const { redis, lines } = open(t, `${server.url}/99`);

  await until(() => lines.some(({ mend }) => mend?.includes('database number')));
  await t.rejects(redis.client.set('key', 'value'));
  await delay(300);
  t.notOk(redis.ready());
  t.notOk(lines.some(({ message }) => message === 'Redis is ready'));
});

t.test('a replica that refuses writes makes the client look for the primary again', async (t) => {
  const primary = await startRedis(t);
  if (!primary) return;
  const replica = await startRedis(t, { args: ['--replicaof', '127.0.0.1', String(primary.port)] });
  if (!replica) return;
  const { redis } = open(t, replica.url);
  const connections = new Set<number>();
  await until(async () => {
    if (redis.ready())
      await redis.client.client('ID').then(
        (id) => connections.add(id),
        () => undefined,
      );
    return connections.size > 1;
  });
});

t.test('a socket may have two errors, as with TLS, and the process goes on', async (t) => {
  const url = await redisUrl(t);
  if (!url) return;
  const { redis, lines } = open(t, url);
  await until(() => redis.ready());
  const { stream } = redis.client as Redis;

  stream.destroy(new Error('the first'));
  await until(() => lines.some(({ reason }) => reason === 'the first'));
  t.doesNotThrow(() => stream.emit('error', new Error('the second')));
  await until(() => redis.ready());
});

t.test('a certificate that nobody vouches for is refused', async (t) => {
  const openssl = requireTool(t, 'openssl');
  if (!openssl) return;
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-tls-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const [keyFile, certFile] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
  const args = 'req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1'.split(' ');
  execFileSync(openssl, [...args, '-keyout', keyFile, '-out', certFile], { stdio: 'ignore' });
  let received = '';
  const server = createTlsServer({ key: readFileSync(keyFile), cert: readFileSync(certFile) }, (socket) => {
    socket.on('data', (data) => (received += data.toString())).on('error', () => undefined);
  });
  const port = await listen(t, server);
  const { redis, lines } = open(t, `rediss://:canary-tls@127.0.0.1:${port}`);

  await until(() => lines.some(({ mend }) => mend?.includes('not trusted')));
  t.notOk(redis.ready());
  t.equal(received, '', 'the password was never sent');
  await redis.close();
});

t.test('a server that forgets limits when it is full, or is too old, is told', async (t) => {
  const server = await startRedis(t, { args: ['--maxmemory', '64mb', '--maxmemory-policy', 'allkeys-lru'] });
  if (!server) return;
  const limits = open(t, server.url);
  const cache = open(t, server.url, 'cache');

  await until(() => limits.lines.some(({ mend }) => mend?.includes('noeviction')));
  await until(() => cache.redis.ready());
  t.notOk(cache.lines.some(({ mend }) => mend !== undefined));
  const problemsOf = (info: string) => findServerProblems(parseInfo(info), 'limits', 'single');
  t.match(problemsOf('redis_version:6.0.16\r\n'), [/6\.2 or later/]);
  t.same(problemsOf('redis_version:8.0.1\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru'), []);
  t.match(
    explainFailure(new Error("NOPERM this user has no permissions to run the 'evalsha' command")),
    /right/,
  );
  t.equal(explainFailure(new Error('connect ECONNREFUSED 127.0.0.1:6379')), undefined);
});

t.test('what is wrong with the URL or the server is one line that says how to mend it', async (t) => {
  const server = await startRedis(t, { args: ['--requirepass', 'canary-5c1d'] });
  const replica =
    server && (await startRedis(t, { args: ['--replicaof', '127.0.0.1', String(server.port)] }));
  const noScripts = await startRedis(t, { args: ['--rename-command', 'EVALSHA', ''] });
  if (!server || !replica || !noScripts) return;
  const web = await listen(
    t,
    createServer((socket) => {
      socket.on('error', () => undefined).on('data', () => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
    }),
  );
  const place = `127.0.0.1:${server.port}`;
  const cases: [url: string, mend: RegExp][] = [
    ['redis://:canary-5c1d@no-such-host.invalid', /not known to DNS/],
    ['redis+sentinel://:canary-5c1d@no-such-host.invalid/main', /not known to DNS/],
    ['redis+cluster://:canary-5c1d@no-such-host.invalid', /not known to DNS/],
    [`redis://user:canary-5c1d@${place}`, /user or the password/],
    [`redis+cluster://:canary-other@${place}`, /user or the password/],
    [`redis+cluster://:canary-5c1d@${place}`, /not part of a cluster/],
    [`redis+sentinel://:canary-5c1d@${place}/main`, /sentinel_password/],
    [`redis+sentinel://${place}/main?sentinel_password=canary-5c1d`, /no sentinel/],
    [replica.url, /is a replica/],
    [noScripts.url, /with scripts/],
    [`redis://127.0.0.1:${web}`, /is no Redis/],
  ];
  await Promise.all(
    cases.map(async ([url, mend]) => {
      const { lines } = open(t, url);
      const found = () => lines.filter((line) => mend.test(line.mend ?? ''));
      await until(() => found().length > 0);
      await delay(500);
      t.equal(found().length, 1, `${mend}`);
      t.notMatch(JSON.stringify(lines), /canary/);
    }),
  );
});

t.test('a cache that can starve the limits of its server is told once', async (t) => {
  const server = await startRedis(t, { args: ['--maxmemory', '64mb', '--maxmemory-policy', 'noeviction'] });
  if (!server) return;
  const { logs, services } = await startTestApp(t, {
    REDIS_URL: `${server.url}/0`,
    REDIS_CACHE_URL: `${server.url}/1`,
  });
  const count = (pattern: RegExp) => logs.filter((line) => pattern.test(JSON.stringify(line))).length;
  await until(() => count(/leads to the server of REDIS_URL/) > 0);
  await server.restart();
  await until(() => services.health.redisState() === 'connected' && count(/Redis is ready/) === 4);
  t.equal(count(/leads to the server of REDIS_URL/), 1);

  const same = await startTestApp(t, { REDIS_URL: server.url });
  await until(() => same.services.health.redisState() === 'connected');
  t.notMatch(JSON.stringify(same.logs), /leads to the server/, 'one URL for both says so itself');

  const info = (id: string, memory: number, policy: string) =>
    parseInfo(`run_id:${id}\r\nmaxmemory:${memory}\r\nmaxmemory_policy:${policy}\r\n`);
  const limited = info('one', 1000, 'noeviction');
  t.match(findSharedServer([info('two', 0, 'noeviction'), limited], [limited]), /filled it/, 'of a cluster');
  t.equal(findSharedServer([limited], [info('two', 1000, 'noeviction')]), undefined, 'two servers');
  t.equal(findSharedServer([info('one', 0, 'noeviction')], [info('one', 0, 'noeviction')]), undefined);
  t.equal(findSharedServer([limited], [info('one', 1000, 'allkeys-lru')]), undefined, 'told by the policy');
});

t.test('a server that repeats the password in its errors does not bring it into the log', async (t) => {
  const server = createServer((socket) => {
    socket
      .on('error', () => undefined)
      .on('data', (data) => {
        const commands = data.toString().match(/^\*/gm)?.length ?? 0;
        socket.write(
          "-ERR unknown command, with args beginning with: 'AUTH' 'canary-echo'\r\n".repeat(commands),
        );
      });
  });
  const port = await listen(t, server);
  const { redis, lines } = open(t, `redis://:canary-echo@127.0.0.1:${port}`);

  await until(() => lines.some(({ reason }) => reason?.includes('unknown command')));
  t.notMatch(JSON.stringify(lines), 'canary-echo');
  await redis.close();
});

t.test('a URL that cannot be read fails at once and does not show the password', async (t) => {
  const { message } = await Promise.resolve()
    .then(() => open(t, 'redis://:canary-url@host:99999/0'))
    .then(
      () => new Error('no error'),
      (error: Error) => error,
    );

  t.match(message, /cannot be read/);
  t.notMatch(message, 'canary-url');
});

t.test('a message reaches every subscriber, on every connection', async (t) => {
  const url = await redisUrl(t);
  if (!url) return;
  const [one, other] = [open(t, url), open(t, url)];
  const heard: string[] = [];
  const listener = (name: string) => ({
    onMessage: (message: string) => void heard.push(name + message),
    onGap() {},
  });
  const subscriptions = [
    one.redis.subscribe('news', listener('a')),
    one.redis.subscribe('news', listener('b')),
    other.redis.subscribe('news', listener('c')),
    other.redis.subscribe('else', listener('d')),
  ];
  await until(() => subscriptions.every((each) => each.live()));

  await one.redis.publish('news', '1');
  await until(() => heard.length === 3);

  t.same(heard.toSorted(), ['a1', 'b1', 'c1']);
});

t.test(
  'a subscriber learns that it may have missed something, and hears again after the outage',
  async (t) => {
    const server = await startRedis(t);
    if (!server) return;
    const { redis } = open(t, server.url);
    const heard: string[] = [];
    let gaps = 0;
    const subscription = redis.subscribe('news', {
      onMessage: (text) => void heard.push(text),
      onGap: () => void (gaps += 1),
    });
    await until(() => subscription.live());
    t.equal(gaps, 1, 'what came before it was live was missed');

    await server.stop();
    await until(() => !subscription.live());
    await until(() => gaps === 2);
    await t.rejects(redis.publish('news', 'lost'));

    await server.start();
    await until(() => subscription.live() && redis.ready());
    t.equal(gaps, 3, 'and what came before it was live again');
    await redis.publish('news', 'back');
    await until(() => heard.length > 0);
    t.same(heard, ['back']);

    server.freeze();
    const startedAtMs = performance.now();
    await until(() => !subscription.live(), 4000);
    t.ok(performance.now() - startedAtMs < 3000, 'silence is not taken for "no messages"');
    await until(() => gaps === 4);
    server.thaw();
  },
);

t.test('a subscription that Redis refuses is told once and tried again', async (t) => {
  const server = await startRedis(t);
  if (!server) return;
  const admin = open(t, server.url);
  await until(() => admin.redis.ready());
  await admin.redis.client.call('ACL', 'SETUSER', 'app', 'on', '>secret', '~*', '+@all', 'resetchannels');
  const { redis, lines } = open(t, `redis://app:secret@127.0.0.1:${server.port}`);
  const subscription = redis.subscribe('news', { onMessage() {}, onGap() {} });

  await until(() => lines.some(({ message }) => message?.includes('refuses a subscription')));
  const isRefusedAgain = async () =>
    JSON.stringify(await admin.redis.client.call('ACL', 'LOG')).includes('"count",2');
  await until(isRefusedAgain);
  t.notOk(subscription.live());
  await admin.redis.client.call('ACL', 'SETUSER', 'app', '&news');
  await until(() => subscription.live());

  t.equal(lines.filter(({ message }) => message?.includes('refuses a subscription')).length, 1);
});
