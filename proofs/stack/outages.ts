// Goes with the example: src/features/orders
import { setTimeout as delay } from 'node:timers/promises';
import { createKey } from './basics.ts';
import { listFailures, underLoad } from './changes.ts';
import { REPLICAS, type Stack } from './engine.ts';
import { expect, until, type Report } from './report.ts';
import { send, type Answer } from './request.ts';

const LIMIT_PER_MINUTE = 60;
/** Requests a second, each of which may wait for a connection before it is refused. */
const WAITING_RATE = 10;
const READ_METRICS =
  "fetch('http://127.0.0.1:9090/metrics').then((answer) => answer.text()).then(console.log)";

/** What becomes of requests while Redis or Postgres is away, and that all is well by itself afterwards. */
export async function proveOutages(stack: Stack, key: string, report: Report): Promise<void> {
  const { compose, https } = stack;
  const headers = { authorization: `Bearer ${key}` };
  const started = await startTimes(stack);

  await report.check('without Redis no request fails and no limit disappears', async () => {
    const limited = await createKey(stack, LIMIT_PER_MINUTE);
    let admitted = 0;
    const result = await underLoad(stack, key, async () => {
      await compose('stop', 'redis', 'redis-cache');
      await until('every process says so', async () => (await localLimits(stack)).join() === '1,1,1', 15);
      for (let i = 0; i < 2 * LIMIT_PER_MINUTE; i++) {
        const { status } = await send(`${https}/v1/orders?limit=1`, {
          headers: { authorization: `Bearer ${limited}` },
        });
        expect(status === 200 || status === 429, `a limited request was answered with ${status}`);
        if (status === 200) admitted += 1;
      }
      await compose('start', 'redis', 'redis-cache');
      // The share counts for a window more: Redis came back empty.
      await until('every process is back', async () => (await localLimits(stack)).join() === '0,0,0', 100);
    });
    expect(result.failures.length === 0, listFailures(result));
    expect(admitted > 0 && admitted <= LIMIT_PER_MINUTE, `${admitted} were admitted`);
    return `${result.sent} requests, 0 failed; ${admitted} of ${2 * LIMIT_PER_MINUTE} admitted by a limit of ${LIMIT_PER_MINUTE}`;
  });

  await report.check('without Postgres cached reads go on, the rest is 503 with Retry-After', async () => {
    const [{ id }] = JSON.parse((await send(`${https}/v1/orders?limit=1`, { headers })).body).data;
    const readCached = async (times: number) => {
      for (let i = 0; i < times; i++) {
        const { status, body } = await send(`${https}/v1/orders/${id}`, { headers });
        expect(status === 200, `a cached read was answered with ${status} ${body}`);
        await delay(200);
      }
    };
    const statusOf = async (path: string) => (await send(https + path)).status;
    let refused = 0;
    const accepts = (answer: Answer) => {
      if (answer.status === 503) refused += 1;
      return answer.status < 400 || isPromised(answer);
    };
    const outage = async () => {
      await readCached(2 * REPLICAS);
      await compose('stop', 'postgres');
      try {
        await readCached(20);
        expect((await statusOf('/health/live')) === 200, 'not live');
        expect((await statusOf('/health/serving')) === 200, 'a balancer would take it out');
        expect((await statusOf('/health/ready')) === 503, 'ready');
      } finally {
        await compose('start', 'postgres');
      }
      await until('the service heals', async () => (await statusOf('/health/ready')) === 200, 30);
    };
    const result = await underLoad(stack, key, outage, { perSecond: WAITING_RATE, accepts });
    expect(result.failures.length === 0, listFailures(result));
    expect(refused > 0, 'nothing was refused');
    return `${refused} of ${result.sent} refused as promised, none otherwise`;
  });
  await report.check('no process died of that', async () => {
    expect((await startTimes(stack)) === started, 'a replica was started again');
  });
}

/** `rate_limit_local` of each replica. */
async function localLimits({ docker, replicas }: Stack): Promise<string[]> {
  const texts = (await replicas()).map((id) => docker('exec', id, '/nodejs/bin/node', '-e', READ_METRICS));
  return (await Promise.all(texts)).map((text) => /^rate_limit_local (\d)$/m.exec(text)?.[1] ?? 'none');
}

async function startTimes({ docker, replicas }: Stack): Promise<string> {
  return docker('inspect', '-f', '{{.Id}} {{.State.StartedAt}}', ...(await replicas()).toSorted());
}

function isPromised({ status, headers }: Answer): boolean {
  const type = headers['content-type'] ?? '';
  return status === 503 && headers['retry-after'] !== undefined && type.includes('problem+json');
}
