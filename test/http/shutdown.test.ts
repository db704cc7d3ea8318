import autocannon from 'autocannon';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { Agent, get as httpGet, type IncomingMessage } from 'node:http';
import { connect, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
// example:start
import { newOrder } from '../support/app.ts';
// example:end
import { startTestApp, type TestApp } from '../support/app.ts';
import { createDatabase, startPostgres, withClient } from '../support/postgres.ts';
import { commandOf } from '../../tools/dev/processes.ts';
import { descendants } from '../support/processes.ts';
import { startRedis } from '../support/redis.ts';
import { startScript } from '../support/scripts.ts';
import { readSeries } from '../support/series.ts';
import { spawnService, startService, type ServiceProcess } from '../support/service.ts';
import { requireTool } from '../support/tools.ts';
import { until } from '../support/until.ts';

// Each of these has processes and a database of its own; most of their time is waiting.
t.jobs = 4;

/** A database, a process on it and a key for it. */
async function startWithKey(t: Test, env: Record<string, string> = {}, nodeArgs: string[] = []) {
  const databaseUrl = await createDatabase(t);
  const { issueKey } = await startTestApp(t, { DATABASE_URL: databaseUrl });
  const key = await issueKey();
  const service = await startService(t, { DATABASE_URL: databaseUrl, ...env }, nodeArgs);
  return { ...service, databaseUrl, key, headers: { authorization: `Bearer ${key.token}` } };
}

interface Answer {
  status: number;
  connection: string | undefined;
  json: any;
}

/** Unlike fetch it tells `Connection`, and uses the connection that it is told to. */
async function ask(url: string, headers: Record<string, string> = {}, agent?: Agent): Promise<Answer> {
  const request = httpGet(url, { headers, agent: agent ?? false });
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  let text = '';
  for await (const chunk of response) text += chunk;
  return {
    status: response.statusCode ?? 0,
    connection: response.headers.connection,
    json: JSON.parse(text),
  };
}

/** Keeps every request that reads the audit log waiting, until released or `t` ends. */
async function holdAuditLog(t: Test, databaseUrl: string): Promise<() => void> {
  let release = (): void => {};
  const released = new Promise<void>((resolve) => (release = resolve));
  let locked = (): void => {};
  const isLocked = new Promise<void>((resolve) => (locked = resolve));
  const held = withClient(databaseUrl, async (client) => {
    await client.query('begin; lock table audit_event in access exclusive mode');
    locked();
    await released;
    await client.query('commit');
  });
  t.teardown(() => {
    release();
    return held;
  });
  await isLocked;
  return release;
}

async function inFlight({ metricsUrl }: ServiceProcess): Promise<number> {
  const text = await (await fetch(`${metricsUrl}/metrics`)).text();
  return Number(/^api_requests_in_flight (\d+)$/m.exec(text)?.[1]);
}

const hasLine = ({ logs }: { logs: Record<string, unknown>[] }, message: string) =>
  logs.some((line) => line.message === message);

t.test(
  'Without Postgres (refusing, silent or slow) the process lives, `/health/live` and `/health/serving` stay 200, cached reads of known keys go on at their usual speed, everything else is 503 with `Retry-After` within the pool wait, and it heals by itself.',
  { buffered: true },
  async (t) => {
    const [postgres, redis] = await Promise.all([startPostgres(t), startRedis(t)]);
    if (!redis) return;
    const seed = await startTestApp(t, { DATABASE_URL: postgres.url });
    const { token } = await seed.issueKey();
    // example:start
    const order = (await seed.request('POST', '/v1/orders', { token, body: newOrder() })).json;
    // example:end
    await postgres.stop();
    const headers = { authorization: `Bearer ${token}` };
    const { url, child } = await startService(t, { DATABASE_URL: postgres.url, REDIS_URL: redis.url });
    const state = async () => {
      const [live, serving, ready, health] = await Promise.all([
        ask(`${url}/health/live`),
        ask(`${url}/health/serving`),
        ask(`${url}/health/ready`),
        ask(`${url}/health`),
      ]);
      const { version, timestamp, ...parts } = health.json;
      t.match(version, /^\d+\.\d+\.\d+/);
      t.equal(new Date(timestamp).toISOString(), timestamp);
      t.equal(health.status, ready.status);
      return {
        live: live.status,
        serving: serving.status,
        ready: ready.status,
        ...ready.json,
        health: parts,
      };
    };
    const is = async (what: string, ready: number, wanted: object) => {
      await until(what, async () => (await ask(`${url}/health/ready`)).status === ready);
      t.match(await state(), { live: 200, serving: 200, ready, ...wanted }, what);
    };

    await is('Postgres is away at the start', 503, {
      serving: 503,
      status: 'unavailable',
      database: 'disconnected',
      health: { status: 'unhealthy', database: 'disconnected', redis: 'connected' },
    });
    await postgres.start();
    await is('Postgres came', 200, {
      status: 'ok',
      redis: 'connected',
      health: { status: 'healthy', database: 'connected', redis: 'connected' },
    });
    // example:start
    t.equal((await ask(`${url}/v1/orders/${order.id}`, headers)).json.id, order.id);
    // example:end

    postgres.freeze();
    await is('Postgres hangs', 503, { health: { database: 'disconnected' } });
    postgres.thaw();
    await is('Postgres goes on', 200, { health: { status: 'healthy' } });
    t.equal((await ask(`${url}/v1/audit-events`, headers)).status, 200);
    // example:start
    t.equal((await ask(`${url}/v1/orders/${order.id}`, headers)).status, 200);
    // example:end

    postgres.kill();
    await is('Postgres crashed', 503, { health: { status: 'unhealthy' } });
    // example:start
    const cached = fetch(`${url}/v1/orders/${order.id}`, { headers });
    // example:end
    const list = await fetch(`${url}/v1/audit-events`, { headers });
    t.equal(list.status, 503);
    t.match(list.headers.get('retry-after'), /^\d+$/);
    t.match(await list.json(), { code: 'unavailable' });
    // example:start
    t.equal((await cached).status, 200, await (await cached).text());
    // example:end

    await redis.stop();
    await is('Redis is away as well', 503, { health: { database: 'disconnected', redis: 'disconnected' } });
    await postgres.start();
    await is('Postgres is back, Redis is not', 200, {
      status: 'degraded',
      redis: 'disconnected',
      health: { status: 'degraded', database: 'connected', redis: 'disconnected' },
    });
    t.equal((await ask(`${url}/v1/audit-events`, headers)).status, 200);
    await redis.start();
    await until('Redis is back', async () => (await ask(`${url}/health`)).json.status === 'healthy');
    t.equal(child.exitCode, null);
  },
);

t.test(
  'On SIGTERM no request is lost: readiness first, then the drain delay, then what is in flight.',
  { buffered: true },
  async (t) => {
    const service = await startWithKey(t, { DRAIN_DELAY_SECONDS: '1', SHUTDOWN_TIMEOUT_SECONDS: '20' });
    const { url, port, headers, child } = service;
    const release = await holdAuditLog(t, service.databaseUrl);
    const agent = new Agent({ keepAlive: true });
    const idle = connect(port, '127.0.0.1');
    const halfSent = connect(port, '127.0.0.1');
    halfSent.write('GET /health/live HTTP/1.1\r\nHost: a\r\n');
    await ask(`${url}/health/live`, {}, agent);
    t.equal((await ask(`${url}/health/ready`)).status, 200);
    const slow = ask(`${url}/v1/audit-events`, headers, new Agent({ keepAlive: true }));
    await until('a request is in flight', async () => (await inFlight(service)) === 1);

    child.kill('SIGTERM');
    await until('the process drains', () => hasLine(service, 'draining'));
    const drainingSince = Date.now();
    // All at once: on a slow machine one after the other may take longer than the delay.
    const [ready, serving, live, health, read, kept] = await Promise.all([
      ask(`${url}/health/ready`),
      ask(`${url}/health/serving`),
      ask(`${url}/health/live`),
      ask(`${url}/health`),
      ask(`${url}/v1/api-keys`, headers),
      ask(`${url}/health/live`, {}, agent),
    ]);
    // The parent goes away as well: that is no second reason to stop.
    child.disconnect();

    t.match(ready, { status: 503, connection: 'close', json: { status: 'draining' } });
    t.match(serving, { status: 503, connection: 'close', json: { status: 'draining' } });
    t.match(live, { status: 200, connection: 'close' });
    t.match(health, { status: 200, json: { status: 'draining', database: 'connected' } });
    t.match(read, { status: 200, connection: 'close', json: { data: [{ id: service.key.id }] } });
    t.match(kept, { status: 200, connection: 'close' }, 'a kept connection is told to end too');

    await until('no new connection is taken', () => refusesConnections(port));
    t.ok(Date.now() - drainingSince >= 900, 'not before the drain delay');
    t.equal(child.exitCode, null, 'and what is in flight is waited for');
    release();
    t.match(await slow, {
      status: 200,
      connection: 'close',
      json: { data: [{ action: 'api_key.created' }] },
    });
    const answeredAt = Date.now();
    t.equal(await service.ended, 0);
    t.ok(Date.now() - answeredAt < 3_000, 'connections without a request are not waited for');

    const [row] = await withClient(service.databaseUrl, async (client) => {
      const { rows } = await client.query('select last_used_at from api_key where id = $1', [service.key.id]);
      return rows;
    });
    t.type(row.last_used_at, Date, 'what is written in batches was written');
    t.same(
      service.logs.filter(({ level }) => level === 'error' || level === 'fatal'),
      [],
    );
    t.same(service.logs.filter(({ message }) => message === 'draining').length, 1);
    t.match(service.logs.at(-1), { message: 'stopped' });
    idle.destroy();
    halfSent.destroy();
    agent.destroy();
  },
);

function refusesConnections(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => resolve(false)).once('error', () => resolve(true));
    socket.once('connect', () => socket.destroy());
  });
}

t.test(
  'requests that wait to be accepted when the drain delay ends get their responses',
  { buffered: true },
  async (t) => {
    const service = await startWithKey(t, { DRAIN_DELAY_SECONDS: '3' });
    const agent = new Agent({ keepAlive: true });
    t.teardown(() => agent.destroy());
    await ask(`${service.url}/health/live`, {}, agent);

    service.child.kill('SIGTERM');
    await until('the process drains', () => hasLine(service, 'draining'));
    // The kernel goes on completing connections; the service finds them all when the delay is over.
    service.child.kill('SIGSTOP');
    const kept = ask(`${service.url}/health/live`, {}, agent);
    const waiting = Array.from({ length: 50 }, () => ask(`${service.url}/v1/api-keys`, service.headers));
    const responses = Promise.allSettled([kept, ...waiting]);
    await sleep(3_500);
    service.child.kill('SIGCONT');

    t.match(
      await responses,
      Array.from({ length: 51 }, () => ({
        status: 'fulfilled',
        value: { status: 200, connection: 'close' },
      })),
    );
    t.equal(await service.ended, 0);
  },
);

/** Sends requests until so many lines that stdout does not take were dropped. */
async function dropLines({ url, metricsUrl }: ServiceProcess): Promise<void> {
  const headers = { 'x-request-id': 'x'.repeat(64) };
  await until(
    'lines are dropped',
    async () => {
      await autocannon({
        url: `${url}/v1/api-keys`,
        headers,
        connections: 20,
        pipelining: 10,
        amount: 2_000,
      });
      return (await metricOf(metricsUrl, 'log_lines_dropped_total')) > 0;
    },
    60_000,
  );
}

async function metricOf(metricsUrl: string, series: string): Promise<number> {
  return readSeries(await (await fetch(`${metricsUrl}/metrics`)).text(), series);
}

t.test('a reader of stdout that stalls costs lines, not the process', { buffered: true }, async (t) => {
  const service = await startService(t, { DATABASE_URL: await createDatabase(t) });
  const { child, url, metricsUrl, logs } = service;
  await until('the log is read', () => hasLine(service, 'listening'));
  const recovered = () => logs.filter(({ message }) => String(message).includes('log lines were dropped'));

  child.stdout?.pause();
  await dropLines(service);
  t.equal((await ask(`${url}/health/live`)).status, 200);
  child.stdout?.resume();

  await until('it says how many lines are missing', () => recovered().length > 0);
  t.match(recovered(), [
    { level: 'warn', lines: await metricOf(metricsUrl, 'log_lines_dropped_total'), cause: 'EAGAIN' },
  ]);
  // Fills the pipe; nothing need be dropped for a shutdown to meet it.
  child.stdout?.pause();
  await autocannon({ url: `${url}/v1/api-keys`, connections: 20, pipelining: 10, amount: 2_000 });
  child.kill('SIGTERM');
  await until('the process ends', () => child.exitCode !== null);
  t.equal(child.exitCode, 0);
  child.stdout?.resume();
});

t.test('a full disk behind stdout costs lines, not the process', { buffered: true }, async (t) => {
  const stdout = openSync('/dev/full', 'w');
  t.teardown(() => closeSync(stdout));
  const service = await startService(t, { DATABASE_URL: await createDatabase(t) }, [], stdout);

  await dropLines(service);
  t.equal((await ask(`${service.url}/health/ready`)).status, 200);
  service.child.kill('SIGTERM');
  t.equal(await service.ended, 0);
});

t.test('a reader of stdout that is gone costs lines, not the process', { buffered: true }, async (t) => {
  const service = await startService(t, { DATABASE_URL: await createDatabase(t) });
  service.child.stdout?.destroy();

  for (let i = 0; i < 20; i++) t.equal((await ask(`${service.url}/v1/api-keys`)).status, 401);
  service.child.kill('SIGTERM');
  t.equal(await service.ended, 0);
});

t.test(
  'what was logged is written at the end, also to a reader that is slow',
  { buffered: true },
  async (t) => {
    const service = await startService(t, { DATABASE_URL: await createDatabase(t) });
    const stdout = service.child.stdout;
    await until('the log is read', () => hasLine(service, 'listening'));
    stdout?.pause();
    await autocannon({ url: `${service.url}/v1/api-keys`, connections: 20, amount: 2_000 });
    stdout?.resume();
    service.child.kill('SIGTERM');
    t.equal(await service.ended, 0);
    t.equal(service.logs.filter(({ message }) => message === 'request completed').length, 2_000);
    t.match(service.logs.at(-1), { message: 'stopped' });
  },
);

t.test(
  'metrics and status are on loopback alone unless METRICS_HOST says otherwise',
  { buffered: true },
  async (t) => {
    const DATABASE_URL = await createDatabase(t);
    // Another address of this machine, as a stranger would come to it; on Linux all of 127.0.0.0/8 are.
    const elsewhere = (url: string, path: string) =>
      fetch(`http://127.0.0.2:${new URL(url).port}${path}`).then(
        ({ status }) => status,
        () => 'refused',
      );
    const closed = await startService(t, { DATABASE_URL, API_HOST: '0.0.0.0' });
    if ((await elsewhere(closed.url, '/health/live')) !== 200) {
      t.pass('one address', { skip: true });
      return;
    }
    t.equal((await fetch(`${closed.metricsUrl}/metrics`)).status, 200);
    for (const path of ['/metrics', '/internal/status']) {
      t.equal(await elsewhere(closed.metricsUrl, path), 'refused', path);
    }
    const open = await startService(t, { DATABASE_URL, METRICS_HOST: '0.0.0.0' });
    t.equal(await elsewhere(open.metricsUrl, '/metrics'), 200);
    t.equal(await elsewhere(open.url, '/health/live'), 'refused');
  },
);

t.test('what was refused is written before the end, as are the settings at the start', async (t) => {
  const service = await startWithKey(t);
  t.equal((await fetch(`${service.url}/v1/api-keys`)).status, 401);

  service.child.kill('SIGTERM');

  t.equal(await service.ended, 0);
  const { rows } = await withClient(service.databaseUrl, (client) =>
    client.query(`select action, outcome, detail from audit_event where tenant = 'operator' order by id`),
  );
  t.match(rows, [
    { action: 'service.started', outcome: 'success', detail: { settings: { http: { host: '127.0.0.1' } } } },
    { action: 'authentication.failed', outcome: 'denied', detail: { reason: 'missing', count: 1 } },
  ]);
  t.equal(rows.length, 2);
  t.notMatch(JSON.stringify(rows), /only-for-tests|postgres:/, 'and nothing secret');
});

t.test('a second signal ends it at once with 1', { buffered: true }, async (t) => {
  const databaseUrl = await createDatabase(t);
  const service = await startService(t, { DATABASE_URL: databaseUrl, DRAIN_DELAY_SECONDS: '60' });

  service.child.kill('SIGTERM');
  await until('the process drains', () => hasLine(service, 'draining'));
  service.child.kill('SIGINT');

  t.equal(await service.ended, 1);
  t.match(service.logs.at(-1), { level: 'fatal', signal: 'SIGINT' });
});

t.test(
  'npm start passes a signal on, leaves nothing behind and ends with the code of the service',
  async (t) => {
    const npm = requireTool(t, 'npm');
    if (npm === undefined) return;
    const env = {
      HOME: process.env.HOME ?? '',
      DATABASE_URL: await createDatabase(t),
      API_HOST: '127.0.0.1',
      API_PORT: '0',
      METRICS_PORT: '0',
      DRAIN_DELAY_SECONDS: '0.5',
    };
    for (const [what, stop] of [
      ['SIGTERM to npm alone', ({ pid }) => process.kill(pid, 'SIGTERM')],
      [
        'Ctrl-C, which the terminal sends to both, and npm passes on',
        ({ pid }) => process.kill(-pid, 'SIGINT'),
      ],
    ] as [string, (npm: { pid: number }) => void][]) {
      const started = startScript(t, npm, ['start'], env);
      await until('it listens', () => started.stdout().includes('"message":"listening"'));
      const service = Number(descendants(started.pid).find((pid) => commandOf(pid).includes('dist/main.js')));
      stop(started);
      const { code, stdout } = await started.result;
      t.equal(code, 0, what);
      t.match(stdout, /"message":"stopped"/);
      t.equal(commandOf(service), '', 'the service has ended by then');
    }
  },
);

t.test(
  'a request that never ends is cut at SHUTDOWN_TIMEOUT_SECONDS, and the exit code tells',
  { buffered: true },
  async (t) => {
    const service = await startWithKey(t, { SHUTDOWN_TIMEOUT_SECONDS: '0.5' });
    await holdAuditLog(t, service.databaseUrl);
    const cut = ask(`${service.url}/v1/audit-events`, service.headers).catch(
      (error: NodeJS.ErrnoException) => error.code,
    );
    await until('a request is in flight', async () => (await inFlight(service)) === 1);

    const start = Date.now();
    service.child.kill('SIGTERM');

    t.equal(await service.ended, 1);
    t.ok(Date.now() - start >= 500);
    t.equal(await cut, 'ECONNRESET');
    t.ok(hasLine(service, 'requests were still in flight and are cut'));
    t.ok(hasLine(service, 'stopped'), 'the rest is closed in order all the same');
  },
);

/** Fails by itself when it is told to; nothing in src can be made to. */
const FAULT = `data:text/javascript,${encodeURIComponent(`
  process.on('message', (kind) => {
    const error = new Error('on purpose, with postgres://app:s3cret@db/x');
    if (kind === 'throw') setImmediate(() => { throw error; });
    if (kind === 'reject') Promise.reject(error);
  });
`)}`;

for (const [kind, event] of [
  ['throw', 'an uncaught exception'],
  ['reject', 'an unhandled rejection'],
] as const) {
  t.test(
    `${event} is logged once, what is in flight is finished, and the exit code is 1`,
    { buffered: true },
    async (t) => {
      const service = await startWithKey(t, { DRAIN_DELAY_SECONDS: '0.3' }, ['--import', FAULT]);
      const release = await holdAuditLog(t, service.databaseUrl);
      const slow = ask(`${service.url}/v1/audit-events`, service.headers);
      await until('a request is in flight', async () => (await inFlight(service)) === 1);

      service.child.send(kind);
      await until('the process drains', () => hasLine(service, 'draining'));
      t.equal((await ask(`${service.url}/health/ready`)).status, 503);
      release();

      t.equal((await slow).status, 200);
      t.equal(await service.ended, 1);
      const fatal = service.logs.filter(({ level }) => level === 'fatal');
      t.match(fatal, [
        { error: { message: 'on purpose, with postgres://app:***@db/x', stack: /Error: on purpose/ } },
      ]);
      t.equal(fatal.length, 1);
    },
  );
}

t.test(
  'it says where it listens, and ends when the process that started it is gone',
  { buffered: true },
  async (t) => {
    const service = await startService(t, { DATABASE_URL: await createDatabase(t) });

    await until('it says so', () => hasLine(service, 'listening'));
    service.child.disconnect();

    t.match(
      service.logs.find(({ message }) => message === 'listening'),
      {
        level: 'info',
        url: service.url,
        metrics_url: service.metricsUrl,
        redis: 'none',
      },
    );
    t.equal(await service.ended, 0);
    t.ok(hasLine(service, 'stopped'));
  },
);

t.test('a port that is taken is named in one line, and the exit code is 1', { buffered: true }, async (t) => {
  const other = createServer().listen(0, '127.0.0.1');
  t.teardown(() => other.close());
  await once(other, 'listening');
  const taken = String((other.address() as { port: number }).port);

  const attempts = ['API_PORT', 'METRICS_PORT'].map((name) => {
    const { ended, stderr } = spawnService(t, { DATABASE_URL: 'postgres://127.0.0.1:1/none', [name]: taken });
    return { name, ended, stderr };
  });

  for (const { name, ended, stderr } of attempts) {
    t.equal(await ended, 1);
    t.match(
      stderr(),
      new RegExp(`^listen EADDRINUSE: address already in use 127\\.0\\.0\\.1:${taken}; .*${name}.*\\n$`),
    );
  }
});

t.test(
  'a bad configuration names every problem at once, shows no secret, and exits 1',
  { buffered: true },
  async (t) => {
    const { ended, stderr, logs } = spawnService(t, {
      API_PORT: 'abc',
      TRUSTED_PROXIES: 'true',
      API_KEY_SECRET: 's3cret',
      REQUEST_TIMEOUT_SECONDS: '1',
    });

    t.equal(await ended, 1);
    for (const name of [
      'DATABASE_URL',
      'API_PORT',
      'TRUSTED_PROXIES',
      'API_KEY_SECRET',
      'QUERY_TIMEOUT_SECONDS',
    ]) {
      t.match(stderr(), new RegExp(`^${name} `, 'm'));
    }
    t.notMatch(stderr(), /s3cret|\n {4}at /);
    t.same(logs, []);
  },
);

t.test('probes cost few queries, however many come', { buffered: true }, async (t) => {
  const service: TestApp = await startTestApp(t);
  const queries = () => service.metric('db_query_latency_seconds_count{target="primary"}');
  for (const url of ['/health/serving', '/health/ready']) await service.request('GET', url);
  const before = await queries();

  const start = performance.now();
  const urls = ['/health/live', '/health/serving', '/health/ready', '/health'];
  for (let i = 0; i < 100; i++) {
    const answers = await Promise.all(urls.map((url) => service.request('GET', url)));
    if (answers.some(({ status }) => status !== 200)) t.fail(JSON.stringify(answers));
  }
  // One check in 1.5 s, of two statements.
  const checks = 1 + Math.ceil((performance.now() - start) / 1_500);
  t.ok((await queries()) - before <= 2 * checks, `${(await queries()) - before} queries`);
});
