import { createServer } from 'node:http';
import { connect as connectHttp2 } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { connect, type TLSSocket } from 'node:tls';
import type { Test } from 'tap';
import { expect, runChecks, skipChecks, until, type Report } from '../stack/report.ts';
import { startNginx, type Nginx } from '../../test/support/nginx.ts';
import { createDatabase } from '../../test/support/postgres.ts';
import { startService } from '../../test/support/service.ts';
import { findTool } from '../../test/support/tools.ts';
import { SMUGGLING } from './smuggling.ts';
import { SPELLINGS } from './spellings.ts';
import { judgeTls } from './tls.ts';

/** `npm run check:edge`: see README.md in this folder. */
const closers: (() => unknown)[] = [];
const close = async () => {
  for (const each of closers.splice(0).toReversed()) await each();
};
// What the parts of the tests want of a test.
const t = {
  fullname: 'check:edge',
  teardown: (work: () => unknown) => void closers.push(work),
  pass: () => undefined,
  comment: () => undefined,
} as unknown as Test;

async function prove(report: Report): Promise<void> {
  await report.check('nginx and the service agree on where each request ends', proveFraming);

  const service = await startService(t, {
    DATABASE_URL: await createDatabase(t),
    SECRET_KEY: 'only-for-proofs-f0e1d2c3b4a59687-7768',
    TRUSTED_PROXIES: '127.0.0.1/32',
    LOG_LEVEL: 'warn',
    // Each path below /v1 is an attempt without a key.
    AUTH_FAILURES_PER_MINUTE: '1000000',
  });
  const nginx = await open([service.port]);
  await report.check('no spelling of an internal path is answered', () => proveSpellings(nginx));
  await report.check('slow clients are ended while others are served', () => proveSlowClients(nginx));
  for (const [name, flood] of Object.entries(FLOODS)) {
    await report.check(`after ${name} the next client is served`, async () => {
      await flood(nginx);
      await until('it is served', async () => (await nginx.ask('/health/live')).status === 200, 30);
    });
  }
  await judgeTls(nginx.httpsPort, report);
}

async function open(ports: number[]): Promise<Nginx> {
  const nginx = await startNginx(t, ports);
  if (!nginx) throw new Error('nginx or openssl is missing');
  return nginx;
}

/** Every request that the service saw must be one that nginx saw as well. */
async function proveFraming(): Promise<string> {
  const seen: string[] = [];
  const recorder = createServer((request, response) => {
    seen.push(request.url ?? '');
    request.resume().on('end', () => response.end('ok'));
  });
  await new Promise<void>((resolve) => recorder.listen(0, '127.0.0.1', resolve));
  closers.push(() => (recorder.close(), recorder.closeAllConnections()));
  const nginx = await open([(recorder.address() as AddressInfo).port]);

  // Names of the same lengths for each case: lengths stand in the requests.
  const cases = SMUGGLING.map((text, index) => {
    const number = String(index).padStart(4, '0');
    return text.replaceAll('/outer', `/o${number}`).replaceAll('/smuggled', `/s000${number}`);
  });
  for (let i = 0; i < cases.length; i += 10) {
    await Promise.all(cases.slice(i, i + 10).map((text) => talk(nginx, [text], { idleMs: 700 })));
  }
  await delay(500);
  const logged = nginx.accessLog().map(({ path }) => String(path));
  const count = (paths: string[], path: string) => paths.filter((each) => each === path).length;
  for (const url of new Set(seen)) {
    const path = url.replace(/^https?:\/\/[^/]*/, '');
    const index = Number(path.slice(-4));
    const saw = `the service saw ${path} ${count(seen, url)} times, nginx ${count(logged, path)} times`;
    expect(count(seen, url) <= count(logged, path), `${saw}: ${JSON.stringify(cases[index])}`);
  }
  expect(seen.length > 20, `only ${seen.length} requests got through: nothing was tried`);
  return `${cases.length} cases, ${seen.length} requests reached the service`;
}

async function proveSpellings({ ask }: Nginx): Promise<string> {
  const statuses = new Map<number, number>();
  // Below the 300 requests a second that an address may send.
  for (let i = 0; i < SPELLINGS.length; i += 20) {
    const batch = SPELLINGS.slice(i, i + 20).map(async (path) => {
      const { status, body } = await ask(path);
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
      expect(status >= 400 && status !== 429, `${path} is answered with ${status}`);
      expect(body === '' || body.startsWith('{"type"'), `${path} is answered with ${body.slice(0, 80)}`);
    });
    await Promise.all([...batch, delay(100)]);
  }
  const list = [...statuses].toSorted().map(([status, times]) => `${status}: ${times}`);
  return `${SPELLINGS.length} paths, ${list.join(', ')}`;
}

async function proveSlowClients(nginx: Nginx): Promise<string> {
  const head = 'POST /v1/api-keys HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n';
  const trickle = (text: string) => [text, ...Array.from({ length: 90 }, () => 'x')];
  const slow = [
    ...Array.from({ length: 50 }, () => talk(nginx, trickle('GET / HTTP/1.1\r\nX: '), { pauseMs: 1_000 })),
    ...Array.from({ length: 50 }, () => talk(nginx, trickle(`${head}\r\n`), { pauseMs: 1_000 })),
    // Without a byte of TLS, or of HTTP.
    ...Array.from({ length: 20 }, () => talk(nginx, [], { idleMs: 90_000 })),
  ];
  let ended = 0;
  for (const each of slow) void each.then(() => (ended += 1));
  const fromMs = performance.now();
  let served = 0;
  while (ended < slow.length) {
    expect((await nginx.ask('/health/live')).status === 200, 'others are not served meanwhile');
    served += 1;
    expect(performance.now() - fromMs < 80_000, `${slow.length - ended} slow clients are still there`);
    await delay(500);
  }
  return `${slow.length} ended within ${((performance.now() - fromMs) / 1000).toFixed(0)} s, ${served} others served`;
}

const TIMES = 5_000;
const FLOODS: Record<string, (nginx: Nginx) => Promise<void>> = {
  'a flood of resets': (nginx) =>
    withSession(nginx, (session) => {
      for (let i = 0; i < TIMES && !session.destroyed; i++) {
        const stream = session.request({ ':path': '/health/live' });
        stream.on('error', () => undefined);
        stream.close(8);
      }
    }),
  'a flood of pings': (nginx) =>
    withSession(nginx, (session) => {
      for (let i = 0; i < TIMES && !session.destroyed; i++) session.ping(() => undefined);
    }),
  'a flood of settings': (nginx) =>
    withSession(nginx, (session) => {
      for (let i = 0; i < TIMES && !session.destroyed; i++) session.settings({ enablePush: false });
    }),
  'headers without an end': async (nginx) => {
    const frame = (type: number, flags: number, stream: number, payload: Buffer) => {
      const head = Buffer.alloc(9);
      head.writeUIntBE(payload.length, 0, 3);
      head.writeUInt8(type, 3);
      head.writeUInt8(flags, 4);
      head.writeUInt32BE(stream, 5);
      return Buffer.concat([head, payload]);
    };
    const more = frame(9, 0, 1, Buffer.alloc(16_000, 0x82));
    const start = Buffer.concat([
      Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
      frame(4, 0, 0, Buffer.alloc(0)),
      frame(1, 0, 1, Buffer.from([0x82])),
    ]);
    const parts = [start, ...Array.from({ length: 500 }, () => more)];
    const sent = await talk(nginx, parts, { alpn: ['h2'], pauseMs: 1, idleMs: 5_000 });
    expect(sent > 0 && sent < parts.length, `nginx read ${sent} of ${parts.length} frames of headers`);
  },
};

async function withSession(
  { httpsPort }: Nginx,
  work: (session: ReturnType<typeof connectHttp2>) => void,
): Promise<void> {
  const options = { rejectUnauthorized: false, maxOutstandingPings: TIMES, maxOutstandingSettings: TIMES };
  const session = connectHttp2(`https://localhost:${httpsPort}`, options);
  session.on('error', () => undefined);
  await new Promise((resolve) => session.once('connect', resolve));
  work(session);
  await delay(1_000);
  session.destroy();
}

interface TalkOptions {
  /** Between two parts. */
  pauseMs?: number;
  /** Hangs up when so long nothing came after the last part. */
  idleMs?: number;
  alpn?: string[];
}

/** Sends bytes over TLS as they are, until the server hangs up. Resolves to the number of parts that were sent. */
function talk(
  { httpsPort: port }: Nginx,
  parts: (string | Buffer)[],
  { pauseMs = 0, idleMs = 90_000, alpn = ['http/1.1'] }: TalkOptions,
): Promise<number> {
  return new Promise((resolve) => {
    let sent = 0;
    const socket: TLSSocket = connect({
      host: '127.0.0.1',
      port,
      servername: 'localhost',
      rejectUnauthorized: false,
      ALPNProtocols: alpn,
    });
    socket.setTimeout(idleMs, () => socket.destroy());
    socket.resume();
    // It resets those whom it does not want to hear.
    socket.on('error', () => undefined);
    socket.once('close', () => resolve(sent));
    socket.once('secureConnect', () => {
      void (async () => {
        for (const part of parts) {
          if (socket.destroyed || socket.writableEnded) return;
          socket.write(typeof part === 'string' ? Buffer.from(part, 'latin1') : part);
          sent += 1;
          if (pauseMs > 0) await delay(pauseMs);
        }
      })();
    });
  });
}

process.exitCode = findTool('nginx')
  ? await runChecks(prove, close)
  : skipChecks('needs nginx on PATH (Debian: apt-get install nginx-light)');
