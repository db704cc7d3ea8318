// Goes with the example: src/features/orders
import { request } from 'node:https';
import type { Stack } from './engine.ts';
import { expect, type Report } from './report.ts';
import { send } from './request.ts';

const NODE = '/nodejs/bin/node';
const CANARY = 'c4n4ry';
/** Prints how a connection to each `host:port` ends. */
const CONNECT = `const { connect } = require('node:net');
for (const target of process.argv.slice(1)) {
  const [host, port] = target.split(':');
  const socket = connect({ host, port, timeout: 2000 });
  const say = (how) => { console.log(target, how); socket.destroy(); };
  socket.once('connect', () => say('open')).once('error', ({ code }) => say(code)).once('timeout', () => say('timeout'));
}`;
/** An address of the internet, and where clouds hand out the rights of the machine. */
const OUTSIDE = ['1.1.1.1:443', '169.254.169.254:80'];
/** Their environment can be read from inside; the others hold one program that knows no secret but from a file. */
const WITH_SHELL = ['postgres', 'redis', 'redis-cache', 'nginx', 'backup'];

interface Container {
  Config: { Env: string[] };
  Mounts: { Type: string; Name?: string; Destination: string }[];
  NetworkSettings: { Networks: Record<string, { IPAddress: string }> };
}

/** Who reaches whom, and where secrets are: what somebody could do who has taken over one container. */
export async function proveIsolation(stack: Stack, services: string[], report: Report): Promise<void> {
  const { compose, docker } = stack;
  const inspect = async (...names: string[]): Promise<Container[]> => {
    const ids = (await compose('ps', '-aq', ...names)).split('\n').filter(Boolean);
    return JSON.parse(await docker('inspect', ...ids));
  };
  const monitoring = services.filter((name) => ['prometheus', 'alertmanager', 'grafana'].includes(name));

  await report.check(
    'nginx and the service reach no monitoring, and the service nothing outside',
    async () => {
      const ports: Record<string, number> = { prometheus: 9090, alertmanager: 9093, grafana: 3000 };
      const targets: string[] = [];
      for (const name of monitoring) {
        for (const { NetworkSettings } of await inspect(name)) {
          for (const { IPAddress } of Object.values(NetworkSettings.Networks))
            targets.push(`${IPAddress}:${ports[name]}`);
        }
        targets.push(`${name}:${ports[name]}`);
      }
      const tried = await compose('exec', '-T', 'api', NODE, '-e', CONNECT, ...targets, ...OUTSIDE);
      expect(!tried.includes('open'), tried);
      for (const target of [...targets, ...OUTSIDE.map((each) => each.replace(':443', ':80'))]) {
        const ask = compose('exec', '-T', 'nginx', 'curl', '-s', '--max-time', '3', `http://${target}/`);
        const isOpen = await ask.then(
          () => true,
          () => false,
        );
        expect(!isOpen, `nginx reaches ${target}`);
      }
      return `${targets.length + OUTSIDE.length} targets`;
    },
  );
  await report.check('the service believes nginx alone', async () => {
    const [nginx] = await inspect('nginx');
    const [api] = await inspect('api');
    const trusted = api?.Config.Env.find((line) => line.startsWith('TRUSTED_PROXIES='))?.split('=')[1] ?? '';
    const addresses = Object.values(nginx?.NetworkSettings.Networks ?? {}).map(({ IPAddress }) => IPAddress);
    expect(addresses.includes(trusted), `${trusted} is none of ${addresses.join(' ')}`);
  });
  await report.check('no secret stands in an environment', async () => {
    const secrets = await secretsOf(stack);
    const said = (await inspect()).flatMap(({ Config }) => Config.Env).join('\n');
    for (const secret of secrets)
      expect(!said.includes(secret), 'a secret is in the settings of a container');
    for (const name of WITH_SHELL) {
      // Their own, of each process that they may look at.
      const read = ['sh', '-c', 'cat /proc/[0-9]*/environ 2>/dev/null || true'];
      const environment = await compose('exec', '-T', name, ...read);
      expect(environment.includes('PATH='), `${name} shows no environment`);
      for (const secret of secrets) expect(!environment.includes(secret), `a secret is in that of ${name}`);
    }
    return `${secrets.length} secrets`;
  });
  await report.check('the code belongs to root, and no volume is anonymous', async () => {
    const look = `const { uid, mode } = require('node:fs').statSync('/app'); console.log(uid, (mode & 0o22).toString(8))`;
    const owner = await compose('exec', '-T', 'api', NODE, '-e', look);
    expect(owner === '0 0', `/app: ${owner}`);
    const anonymous = (await inspect()).flatMap(({ Mounts }) =>
      Mounts.filter(({ Type, Name = '' }) => Type === 'volume' && /^[0-9a-f]{64}$/.test(Name)),
    );
    expect(anonymous.length === 0, anonymous.map(({ Destination }) => Destination).join(' '));
  });
}

/** Slow bodies of clients without a key fill nothing that others need. */
export async function proveSlowBodies(stack: Stack, key: string, report: Report): Promise<void> {
  const { compose, https } = stack;
  await report.check('26 slow bodies without a key cost other clients nothing', async () => {
    const chunk = Buffer.alloc(2 ** 20);
    const open = Array.from({ length: 26 }, () => {
      const headers = { 'content-type': 'application/json', 'content-length': String(9.9 * 2 ** 20) };
      const sent = request(`${https}/v1/orders`, {
        method: 'POST',
        headers,
        rejectUnauthorized: false,
        agent: false,
      });
      sent.on('error', () => undefined);
      for (let i = 0; i < 9; i++) sent.write(chunk);
      return sent;
    });
    try {
      for (let i = 0; i < 3; i++) {
        const items = Array.from({ length: 100 }, () => ({ sku: 'A-1', quantity: 1, unitPriceMinor: 5 }));
        const body = { reference: `slow-${i}`, currency: 'EUR', items, padding: 'x'.repeat(150_000) };
        const { status } = await send(`${https}/v1/orders`, {
          method: 'POST',
          headers: { authorization: `Bearer ${key}`, 'idempotency-key': `slow-${i}` },
          body,
        });
        expect(status < 500, `a POST of 150 kB was answered with ${status}`);
      }
      const used = Number(
        (await compose('exec', '-T', 'nginx', 'df', '--output=used', '/tmp')).split('\n').at(-1),
      );
      expect(used < 100, `${used} kB are in /tmp of nginx`);
    } finally {
      for (const sent of open) sent.destroy();
    }
  });
}

/** After everything else: no log of any container holds a secret, a key, a query or a Referer. */
export async function proveSilence(stack: Stack, key: string, report: Report): Promise<void> {
  const { compose, https } = stack;
  await report.check('no secret, key, query or body is in the log of any container', async () => {
    const headers = { authorization: `Bearer ${key}`, referer: `https://a.test/?key=${CANARY}` };
    const post = {
      method: 'POST',
      headers,
      body: { reference: CANARY, padding: CANARY.repeat(20_000) },
      alone: true,
    };
    for (const path of [`/v1/orders?status=${CANARY}`, `/v1/orders/${key}`, `/${key}?x=${CANARY}`]) {
      await send(https + path, { headers });
      await send(https + path, post);
    }
    const logs = await compose('logs', '--no-log-prefix');
    const secrets = [...(await secretsOf(stack)), key, key.split('_').at(-1) ?? '', CANARY];
    for (const secret of secrets) {
      const at = logs.indexOf(secret);
      expect(at === -1, `after: ${logs.slice(Math.max(0, at - 200), at)}`);
    }
    return `${logs.split('\n').length} lines`;
  });
}

async function secretsOf({ compose }: Stack): Promise<string[]> {
  const read = ['run', '--rm', '--no-deps', '-T', '--entrypoint', 'sh', 'setup', '-c'];
  const text = await compose(...read, 'for file in /store/all/*; do cat $file; echo; done');
  return text.split('\n').filter((line) => line.length > 11);
}
