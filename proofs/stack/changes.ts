// Goes with the example: src/features/orders
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { connect } from 'node:tls';
import { RELEASES, REPLICAS, type Stack } from './engine.ts';
import { startLoad, type LoadOptions, type LoadResult } from './load.ts';
import { expect, until, type Report } from './report.ts';

/** Requests a second. */
const RATE = 120;
const CALM_MS = 2_000;
/** `fail_timeout` of nginx' upstream, and a second: so long requests could go to a process that is gone. */
const CRASH_IS_SEEN_MS = 6_000;

/** What is read here of a response of nginx' own, and of a line of its access log. */
interface Problem {
  instance: string;
}
interface AccessLine {
  request_id: string;
  /** Each address that was tried, in order. */
  upstream: string;
}

/** Load while `work` runs and a little longer on both sides; every write is in the database once. */
export async function underLoad(
  stack: Stack,
  key: string,
  work: () => Promise<unknown>,
  options: Partial<LoadOptions> = {},
): Promise<LoadResult> {
  const load = startLoad({ api: stack.https, key, perSecond: RATE, ...options });
  try {
    await delay(CALM_MS);
    await work();
    await delay(CALM_MS);
  } catch (error) {
    await load.stop();
    throw error;
  }
  const result = await load.stop();
  const [first = ''] = result.references;
  const name = first.slice(0, first.lastIndexOf('-') + 1);
  const rows = Number(await stack.sql(`select count(*) from orders where reference like '${name}%'`));
  expect(
    rows === result.references.length,
    `${result.references.length} orders were sent, ${rows} are there; ${listFailures(result)}`,
  );
  return result;
}

export function listFailures({ failures, sent }: Pick<LoadResult, 'failures' | 'sent'>): string {
  const texts = failures.map(({ text }) => text);
  return `${failures.length} of ${sent} failed: ${texts.slice(0, 3).join('; ')}`;
}

/** Each of these changes loses no request and doubles no order. */
export async function proveChanges(stack: Stack, key: string, report: Report): Promise<void> {
  const { compose, docker } = stack;
  const withoutLoss = (name: string, work: () => Promise<unknown>) =>
    report.check(`no request is lost while ${name}`, async () => {
      const result = await underLoad(stack, key, work);
      expect(result.failures.length === 0, listFailures(result));
      return `${result.sent} requests, 0 failed; ${result.references.length} orders, each once`;
    });
  const replaceAll = async (release: string, ...command: string[]) => {
    const before = await stack.replicas();
    await stack.run('scripts/deploy.sh', ...command);
    const after = await stack.replicas();
    expect(after.length === REPLICAS, `${after.length} replicas`);
    expect(!after.some((id) => before.includes(id)), 'a replica was not replaced');
    const images = await docker('inspect', '-f', '{{.Config.Image}}', ...after);
    expect(new Set(images.split('\n')).size === 1 && images.startsWith(release), images);
  };

  await withoutLoss('every replica is replaced by a new release', () =>
    replaceAll(RELEASES[1], 'update', RELEASES[1]),
  );
  await withoutLoss('going back to the release before', () => replaceAll(RELEASES[0], 'rollback'));
  await withoutLoss('scaling 3, 1, 3', async () => {
    for (const replicas of [1, REPLICAS]) await stack.scale(replicas);
  });
  await withoutLoss('nginx takes a new certificate, and reloads again and again', async () => {
    const before = await fingerprint(stack);
    for (const file of readdirSync(stack.tlsDir)) rmSync(join(stack.tlsDir, file));
    await compose('run', '--rm', '-T', 'setup');
    for (let i = 0; i < 3; i++) {
      await compose('exec', '-T', 'nginx', 'nginx', '-s', 'reload');
      await delay(1_000);
    }
    await until('the new certificate is shown', async () => (await fingerprint(stack)) !== before);
  });
  await report.check(
    'A rollout under load loses no request. A crash of one process loses only what was in flight on it.',
    async () => {
      const [victim = ''] = await stack.replicas();
      const format = '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}';
      const addresses = (await docker('inspect', '-f', format, victim)).trim().split(' ');
      let deadAtMs = 0;
      const { sent, failures } = await underLoad(stack, key, async () => {
        await docker('kill', '-s', 'KILL', victim);
        deadAtMs = performance.now();
        await delay(CRASH_IS_SEEN_MS + CALM_MS);
      });
      await stack.scale(REPLICAS);
      // What nginx says of each: it was sent to that process alone, before its end was known.
      const entries = await accessLog(stack);
      const others = failures.filter(({ answer, sentAtMs }) => {
        const { instance = '' } = answer?.status === 502 ? (JSON.parse(answer.body) as Problem) : {};
        const upstream = entries.get(instance)?.upstream ?? '';
        return sentAtMs > deadAtMs || !addresses.some((address) => upstream === `${address}:8000`);
      });
      expect(others.length === 0, `not in flight on it: ${listFailures({ sent, failures: others })}`);
      return `${failures.length} of ${sent} failed, all in flight on it`;
    },
  );
}

/** The lines of nginx, by the id of the request. */
async function accessLog({ compose }: Stack): Promise<Map<string, AccessLine>> {
  const lines = (await compose('logs', '--no-log-prefix', 'nginx')).split('\n');
  const entries = lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as AccessLine);
  return new Map(entries.map((entry) => [entry.request_id, entry]));
}

function fingerprint({ https }: Stack): Promise<string> {
  const { hostname, port } = new URL(https);
  return new Promise((resolve, reject) => {
    const socket = connect({
      host: hostname,
      port: Number(port),
      servername: hostname,
      rejectUnauthorized: false,
    });
    socket.once('error', reject);
    socket.once('secureConnect', () => {
      resolve(socket.getPeerCertificate().fingerprint256);
      socket.destroy();
    });
  });
}
