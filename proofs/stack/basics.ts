// Goes with the example: src/features/orders
import { RELEASES, REPLICAS, type Stack } from './engine.ts';
import { expect, until, type Report } from './report.ts';
import { send } from './request.ts';

const NODE = '/nodejs/bin/node';
const API_KEY = 'dist/cli/api-key.js';
/** A key with all scopes; `limit` are its requests in a minute. */
export async function createKey({ compose }: Stack, limit: number): Promise<string> {
  const options = ['--tenant', 'acme', '--scopes', '*', '--limit', String(limit), '--json'];
  const made = await compose('exec', '-T', 'api', NODE, API_KEY, 'create', ...options);
  return (JSON.parse(made) as { token: string }).token;
}

export async function proveStart(stack: Stack, services: string[], report: Report): Promise<void> {
  const { docker, compose } = stack;
  await report.check('two releases are built', async () => {
    for (const image of RELEASES) {
      const options = ['-q', '-f', 'docker/Dockerfile', '-t', image, '--build-arg', `REVISION=${image}`];
      await docker('build', ...options, '.');
    }
    const size = Number(await docker('image', 'inspect', '-f', '{{.Size}}', RELEASES[0]));
    return `${(size / 1e6).toFixed(0)} MB`;
  });
  await report.check('from nothing to healthy, with three replicas', async () => {
    await compose('up', '-d', '--no-build', '--wait', '--scale', `api=${REPLICAS}`, ...services);
    const states = await compose('ps', '-a', '--format', '{{.Service}} {{.State}} {{.Health}} {{.ExitCode}}');
    const bad = states.split('\n').filter((line) => !/ running (healthy)? ?0$| exited {1,2}0$/.test(line));
    expect(bad.length === 0, bad.join('; '));
    return `${services.length} services`;
  });
  await report.check('keys made by exec are seen by run', async () => {
    await createKey(stack, 1);
    const list = await compose('run', '--rm', '--no-deps', '-T', 'api', API_KEY, 'list');
    expect(list.includes('acme'), list);
  });
}

export async function proveEdge(
  { compose, run, https, http }: Stack,
  key: string,
  report: Report,
): Promise<void> {
  const headers = { authorization: `Bearer ${key}` };
  const statusOf = (url: string) =>
    run('curl', '-sk', '--path-as-is', '-o', '/dev/null', '-w', '%{http_code}', url);

  await report.check('an order is created and read over TLS', async () => {
    const items = [{ sku: 'A-1', quantity: 1, unitPriceMinor: 5 }];
    const made = await send(`${https}/v1/orders`, {
      method: 'POST',
      headers: { ...headers, 'idempotency-key': 'stack-1' },
      body: { reference: 'stack-1', currency: 'EUR', items },
    });
    expect(made.status === 201, `${made.status} ${made.body}`);
    const read = await send(https + String(made.headers.location), { headers });
    expect(read.status === 200, `${read.status} ${read.body}`);
  });
  await report.check('X-Forwarded-For and X-Request-ID of a client change nothing', async () => {
    const forged = '203.0.113.66';
    const answer = await send(`${https}/v1/orders`, {
      headers: { 'x-forwarded-for': forged, 'x-real-ip': forged, 'x-request-id': 'forged' },
    });
    expect(answer.status === 401, `${answer.status}`);
    const id = String(answer.headers['x-request-id']);
    expect(id !== 'forged', 'the request id of the client was taken');
    await until('both logs have the request', async () => {
      const of = (service: string) => compose('logs', '--no-log-prefix', service);
      return (await of('api')).includes(id) && (await of('nginx')).includes(id);
    });
    const logs = await compose('logs', '--no-log-prefix', 'api', 'nginx');
    expect(!logs.includes(forged), 'the forged address is in a log');
  });
  await report.check('internal paths, plain HTTP and foreign names are refused', async () => {
    const closed = [
      '/metrics',
      '/metrics/',
      '//metrics',
      '/%6detrics',
      '/Metrics',
      '/metrics;x',
      '/metrics%2f',
    ];
    for (const path of [...closed, '/api/../metrics', '/internal/status', '/v1/metrics', '/stub_status']) {
      const status = await statusOf(https + path);
      expect(status === '404', `${path} answers ${status}`);
    }
    expect((await statusOf(`${http}/v1/orders`)) === '403', 'an API call is taken over plain HTTP');
    const { port } = new URL(https);
    const foreign = run(
      'curl',
      '-sk',
      '--resolve',
      `foreign.test:${port}:127.0.0.1`,
      `https://foreign.test:${port}/`,
    );
    expect(
      await foreign.then(
        () => false,
        () => true,
      ),
      'a foreign name is served',
    );
  });
  await report.check('three replicas answer', async () => {
    const before = new Date().toISOString();
    for (let i = 0; i < 60; i++) await send(`${https}/v1/orders?limit=1`, { headers });
    const logs = await compose('logs', '--no-log-prefix', '--since', before, 'nginx');
    const addresses = new Set([...logs.matchAll(/"upstream":"([^",]+)"/g)].map(([, address]) => address));
    expect(addresses.size === REPLICAS, `only ${[...addresses].join(' ')}`);
  });
}
