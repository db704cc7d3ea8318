// Goes with the example: src/features/orders
import { execFile, spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { send, startLoad, type Load } from './stack-load.ts';

/**
 * `npm run check:stack`: brings the stack of compose.yaml up under a project name and ports of its own, proves
 * what it promises, and takes it down with its volumes. Needs a Docker engine; says so where none answers.
 * CHECK_STACK_WITHOUT leaves out services whose images cannot be had.
 */
const PROJECT = 'hardpoint-check';
const HTTPS_PORT = '18443';
const API = `https://localhost:${HTTPS_PORT}`;
const IMAGES = ['hardpoint:check-1', 'hardpoint:check-2'] as const;
const RATE = 120;
const env = {
  ...process.env,
  COMPOSE_PROJECT_NAME: PROJECT,
  HTTP_PORT: '18080',
  HTTPS_PORT,
  GRAFANA_PORT: '13000',
  EDGE_SUBNET: '172.30.251.0/24',
  API_IMAGE: IMAGES[0],
  RATE_LIMIT_PER_MINUTE: '1000000',
  API_REPLICAS: '3',
  DEPLOY_WATCH_SECONDS: '10',
  DEPLOY_MIN_FREE_GB: '1',
  DEPLOY_STATE: '.deploy/check',
};
const run = promisify(execFile);
let passed = 0;
let failed = 0;

async function docker(...args: string[]): Promise<string> {
  const { stdout } = await run('docker', args, { env, maxBuffer: 64 * 1024 * 1024 });
  return stdout.trim();
}
const compose = (...args: string[]) => docker('compose', ...args);

async function check(name: string, work: () => Promise<string | void>): Promise<void> {
  const from = performance.now();
  try {
    const evidence = await work();
    passed += 1;
    console.log(`-- ok: ${name} (${seconds(from)} s)${evidence ? `: ${evidence}` : ''}`);
  } catch (error) {
    failed += 1;
    const { message, stderr = '' } = error as Error & { stderr?: string };
    console.log(`-- FAILED: ${name} (${seconds(from)} s): ${message} ${stderr.slice(-2000)}`);
  }
}

function expect(holds: boolean, text: string): void {
  if (!holds) throw new Error(text);
}

async function until(what: string, holds: () => Promise<boolean>, withinMs = 60_000): Promise<void> {
  const deadline = performance.now() + withinMs;
  while (!(await holds().catch(() => false))) {
    expect(performance.now() < deadline, `${what}: not within ${withinMs / 1000} s`);
    await delay(500);
  }
}

/** Load while `work` runs, and what was lost of it. */
async function underLoad(key: string, work: () => Promise<unknown>) {
  const load: Load = startLoad(API, key, RATE);
  await delay(2_000);
  try {
    await work();
    await delay(2_000);
  } catch (error) {
    await load.stop();
    throw error;
  }
  return load.stop();
}

async function expectNoLoss(key: string, work: () => Promise<unknown>): Promise<string> {
  const { sent, failures, references } = await underLoad(key, work);
  expect(failures.length === 0, `${failures.length} of ${sent} failed: ${failures.slice(0, 3).join('; ')}`);
  const rows = Number(await sql(`select count(*) from orders where reference like 'load-%'`));
  const distinct = Number(
    await sql(`select count(distinct reference) from orders where reference like 'load-%'`),
  );
  expect(rows === distinct, `${rows - distinct} orders were made twice`);
  return `${sent} requests, 0 lost; ${references.length} writes, none twice`;
}

const sql = (text: string) =>
  compose('exec', '-T', 'postgres', 'psql', '-XqAt', '-U', 'postgres', '-d', 'hardpoint', '-c', text);
const replicas = async () => (await compose('ps', '-q', 'api')).split('\n').filter(Boolean);
const seconds = (from: number) => ((performance.now() - from) / 1000).toFixed(1);
const deploy = (...args: string[]) => run('scripts/deploy.sh', args, { env, maxBuffer: 64 * 1024 * 1024 });

async function prove(): Promise<void> {
  const left = (process.env.CHECK_STACK_WITHOUT ?? '').split(',');
  const services = (await compose('config', '--services')).split('\n').filter((name) => !left.includes(name));
  let key = '';
  let headers: Record<string, string> = {};

  await check('both releases are built', async () => {
    for (const image of IMAGES)
      await docker(
        'build',
        '-q',
        '-f',
        'docker/Dockerfile',
        '-t',
        image,
        '--build-arg',
        `REVISION=${image}`,
        '.',
      );
    const size = Number(await docker('image', 'inspect', '-f', '{{.Size}}', IMAGES[0]));
    return `${(size / 1e6).toFixed(0)} MB`;
  });
  await check('from nothing to healthy, with three replicas', async () => {
    await compose('up', '-d', '--no-build', '--wait', '--scale', 'api=3', ...services);
    return `${services.length} services${left[0] ? ` without ${left.join(', ')}` : ''}`;
  });
  await check('a key is made in the container', async () => {
    const made = await compose(
      'exec',
      '-T',
      'api',
      '/nodejs/bin/node',
      'dist/commands/api-key.js',
      'create',
      '--tenant',
      'acme',
      '--scopes',
      '*',
      '--limit',
      '1000000',
      '--json',
    );
    key = (JSON.parse(made) as { token: string }).token;
    headers = { authorization: `Bearer ${key}` };
  });
  await check('an order is created and read over TLS', async () => {
    const body = {
      reference: 'stack-1',
      currency: 'EUR',
      items: [{ sku: 'A-1', quantity: 1, unitPriceMinor: 5 }],
    };
    const made = await send(`${API}/v1/orders`, {
      method: 'POST',
      headers: { ...headers, 'idempotency-key': 'stack-1' },
      body,
    });
    expect(made.status === 201, `${made.status} ${made.body}`);
    const read = await send(`${API}${made.headers.location as string}`, { headers });
    expect(read.status === 200, `${read.status}`);
  });
  await check('X-Forwarded-For of a client changes nothing', async () => {
    const forged = '6.6.6.6';
    const answer = await send(`${API}/v1/orders`, {
      headers: { 'x-forwarded-for': forged, 'x-request-id': 'forged' },
    });
    expect(answer.status === 401, `${answer.status}`);
    expect(answer.headers['x-request-id'] !== 'forged', 'the request id of the client was taken');
    const logs = await compose('logs', '--no-log-prefix', 'api', 'nginx');
    expect(!logs.includes(forged), 'the forged address is in a log');
    expect(logs.includes(String(answer.headers['x-request-id'])), 'the request id is not in the logs');
  });
  await check(
    'internal paths are closed in every spelling, unknown hosts and plain HTTP refused',
    async () => {
      for (const path of [
        '/metrics',
        '/metrics/',
        '//metrics',
        '/%6detrics',
        '/Metrics',
        '/metrics;x',
        '/metrics%2f',
        '/api/../metrics',
        '/internal/status',
        '/v1/metrics',
      ]) {
        const { stdout } = await run('curl', [
          '-sk',
          '--path-as-is',
          '-o',
          '/dev/null',
          '-w',
          '%{http_code}',
          API + path,
        ]);
        expect(stdout === '404', `${path} answers ${stdout}`);
      }
      const plain = await run('curl', [
        '-s',
        '-o',
        '/dev/null',
        '-w',
        '%{http_code}',
        'http://localhost:18080/v1/orders',
      ]);
      expect(plain.stdout === '403', `plain HTTP answers ${plain.stdout}`);
      const stranger = spawnSync('curl', [
        '-sk',
        '--resolve',
        `evil.test:${HTTPS_PORT}:127.0.0.1`,
        `https://evil.test:${HTTPS_PORT}/`,
      ]);
      expect(stranger.status !== 0, 'a foreign name is served');
    },
  );
  await check('three replicas answer', async () => {
    for (let i = 0; i < 60; i++) await send(`${API}/v1/orders?limit=1`, { headers });
    const logs = await compose('logs', '--no-log-prefix', 'nginx');
    const upstreams = new Set([...logs.matchAll(/"upstream":"([^"]+)"/g)].map(([, address]) => address));
    expect(upstreams.size >= 3, `only ${[...upstreams].join(' ')}`);
  });
  if (services.includes('prometheus')) {
    const ask = async (path: string) =>
      JSON.parse(
        await compose('exec', '-T', 'prometheus', 'wget', '-qO-', `http://127.0.0.1:9090/api/v1/${path}`),
      ) as { data: any };
    await check('Prometheus has the metrics of all three, and the alerts', async () => {
      await until(
        'three targets up',
        async () => Number((await ask('query?query=sum(up{job="api"})')).data.result[0]?.value[1]) === 3,
      );
      const { data } = await ask('rules');
      const alerts = data.groups
        .flatMap(({ rules }: any) => rules)
        .filter(({ type }: any) => type === 'alerting');
      expect(alerts.length > 20, `${alerts.length} alerts`);
      return `${alerts.length} alerts`;
    });
  }
  await check('no request is lost while every replica is replaced by a new release', () =>
    expectNoLoss(key, () => deploy('update', IMAGES[1])),
  );
  await check('no request is lost while going back', () => expectNoLoss(key, () => deploy('rollback')));
  await check('no request is lost while scaling 3, 1, 3', () =>
    expectNoLoss(key, async () => {
      for (const count of [1, 3])
        await compose(
          'up',
          '-d',
          '--no-deps',
          '--no-recreate',
          '--no-build',
          '--wait',
          '--scale',
          `api=${count}`,
          'api',
        );
    }),
  );
  await check('no request is lost while nginx reloads', () =>
    expectNoLoss(key, async () => {
      for (let i = 0; i < 3; i++) {
        await compose('exec', '-T', 'nginx', 'nginx', '-s', 'reload');
        await delay(2_000);
      }
    }),
  );
  await check('a killed replica costs below 1 % of the requests, and no order twice', async () => {
    const { sent, failures, longestFailureMs } = await underLoad(key, async () => {
      await docker('kill', '-s', 'KILL', (await replicas())[0] as string);
      await delay(8_000);
    });
    expect(
      failures.length < sent / 100,
      `${failures.length} of ${sent} failed: ${failures.slice(0, 3).join('; ')}`,
    );
    expect(longestFailureMs < 6_000, `failures over ${longestFailureMs} ms`);
    return `${failures.length} of ${sent} failed`;
  });
  await check('the limit service goes on without Redis', async () => {
    await until('three replicas', async () => (await replicas()).length === 3);
    const { sent, failures } = await underLoad(key, async () => {
      await compose('stop', 'redis', 'redis-cache');
      await delay(5_000);
      await compose('start', 'redis', 'redis-cache');
      await delay(3_000);
    });
    expect(failures.length === 0, `${failures.length} of ${sent} failed: ${failures.slice(0, 3).join('; ')}`);
    return `${sent} requests, 0 lost`;
  });
  await check('without Postgres all is 503 with Retry-After, and it heals', async () => {
    await compose('stop', 'postgres');
    const answer = await send(`${API}/v1/orders`, {
      method: 'POST',
      headers: { ...headers, 'idempotency-key': 'down' },
      body: { reference: 'down', currency: 'EUR', items: [{ sku: 'A-1', quantity: 1, unitPriceMinor: 5 }] },
    });
    expect(answer.status === 503 && answer.headers['retry-after'] !== undefined, `${answer.status}`);
    expect((await send(`${API}/health/live`)).status === 200, 'not live');
    await compose('start', 'postgres');
    await until(
      'healthy again',
      async () => (await send(`${API}/v1/orders?limit=1`, { headers })).status === 200,
    );
  });
  await check('backup, loss of the volume, restore: the data is back', async () => {
    const rows = await sql('select count(*) from orders');
    await compose('exec', '-T', 'backup', '/scripts/backup.sh', 'run');
    const name = (await compose('exec', '-T', 'backup', '/scripts/backup.sh', 'list'))
      .split('\n')
      .at(-1) as string;
    const from = performance.now();
    await compose('rm', '-sf', 'postgres', 'api', 'migrate');
    await docker('volume', 'rm', `${PROJECT}_postgres`);
    await compose('up', '-d', '--no-build', '--wait', '--scale', 'api=3', 'nginx');
    await run('scripts/restore.sh', [name], { env });
    await until(
      'orders are read again',
      async () => (await send(`${API}/v1/orders?limit=1`, { headers })).status === 200,
    );
    expect((await sql('select count(*) from orders')) === rows, 'rows differ');
    return `${rows} orders, RTO ${seconds(from)} s (goal 3600), RPO: the age of the backup, at most 24 h`;
  });
}

if (spawnSync('docker', ['info'], { stdio: 'ignore' }).status !== 0) {
  console.log(
    'No Docker engine answers here: the stack was not checked. Install Docker, or start its daemon.',
  );
  process.exit(process.env.REQUIRE_DOCKER ? 1 : 0);
}
const takeDown = () => compose('down', '-v', '--remove-orphans', '--timeout', '20').catch(() => undefined);
process.once('SIGINT', () => void takeDown().then(() => process.exit(130)));
await takeDown();
rmSync('.deploy/check', { recursive: true, force: true });
try {
  await prove();
} finally {
  await takeDown();
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
