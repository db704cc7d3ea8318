// Goes with the example: src/features/orders
import { setTimeout as delay } from 'node:timers/promises';
import { runMonitor } from '../../src/cli/monitor.ts';
import { runLoad, type LoadRun } from './run.ts';
import type { LoadWorld } from './environment.ts';
import { expect, type Report } from '../stack/report.ts';

/** Small enough for a machine that does much else. Of few requests more meet what a write has just taken out of the cache. */
const EASY = { RATE: '20', USERS: '5', HIT_PERCENT: '40' };
const MISSED = 99;

const missing = ({ result }: LoadRun, metric: string) =>
  result.missed.some((each) => each.startsWith(metric));

/** What a run shows for a person, in a line. */
function describe({ code, result }: LoadRun): string {
  const { requests, requestsPerSecond, duration, hitPercent } = result;
  const hits = hitPercent === null ? '' : `, ${hitPercent} % cache hits`;
  return `${requests} requests, ${requestsPerSecond}/s, P95 ${duration.p95} ms${hits}, ended with ${code}`;
}

function expectPassed(run: LoadRun): string {
  const { code, result, output } = run;
  expect(code === 0 && result.passed && result.requests > 0, `ended with ${code}: ${output}`);
  expect(result.checksPercent > 99, `${result.checksPercent} % of the checks`);
  return describe(run);
}

export async function proveLoads(
  world: LoadWorld,
  env: Record<string, string>,
  report: Report,
): Promise<void> {
  const { folder, front, direct } = world;
  const run = (type: string, more: Record<string, string>) => runLoad(folder, type, { ...env, ...more });

  await report.check('smoke passes', async () =>
    expectPassed(await run('smoke', { BASE_URL: front, DURATION: '8s' })),
  );
  await report.check('steady passes, and the monitor finds all well meanwhile', async () => {
    const lines: string[] = [];
    const urls = world.replicas.flatMap(({ metricsUrl }) => ['--url', metricsUrl]);
    const [steady, code] = await Promise.all([
      run('steady', { ...EASY, BASE_URL: front, DURATION: '25s' }),
      runMonitor([...urls, '--seconds', '25', '--interval', '2'], (line) => lines.push(line)),
    ]);
    const evidence = expectPassed(steady);
    expect(code === 0, `the monitor ended with ${code}: ${lines.join('\n')}`);
    expect(steady.result.users >= 5, `${steady.result.users} users`);
    expect((steady.result.hitPercent ?? 0) > 40, `${steady.result.hitPercent} % cache hits`);
    expect(steady.result.slices.length > 20, 'no plot over time');
    return evidence;
  });
  for (const type of ['spike', 'stress']) {
    await report.check(`${type} passes, and its rate changes`, async () => {
      const done = await run(type, { ...EASY, RATE: '10', BASE_URL: direct, DURATION: '15s' });
      const evidence = expectPassed(done);
      const counts = done.result.slices.map(({ requests }) => requests).toSorted((a, b) => a - b);
      expect((counts.at(-1) ?? 0) > 1.5 * (counts[0] ?? 0), `requests in each second: ${counts.join(' ')}`);
      return evidence;
    });
  }
  await report.check('breakpoint ends where it breaks, or passes', async () => {
    const done = await run('breakpoint', { RATE: '100', BASE_URL: direct, DURATION: '40s' });
    const { brokeAt, passed } = done.result;
    expect(done.code === (passed ? 0 : MISSED), `ended with ${done.code}`);
    expect((brokeAt === null) === passed, 'it does not say where it broke');
    if (brokeAt === null) return `held ${done.result.requestsPerSecond}/s`;
    expect(brokeAt.offeredPerSecond > 0, JSON.stringify(brokeAt));
    const before = `${brokeAt.answeredPerSecond} requests/s just before`;
    return `at ${brokeAt.offeredPerSecond} iterations/s; ${before}; ${done.result.missed.join(', ')}`;
  });
}

/** A missed promise has to end with 99, each by itself. */
export async function proveMisses(
  world: LoadWorld,
  env: Record<string, string>,
  report: Report,
): Promise<void> {
  const { folder, fragile, direct } = world;
  const alone = { ...env, BASE_URL: fragile.service.url, STATUS_URL: fragile.service.metricsUrl };

  await report.check('a cache that misses ends it with 99', async () => {
    const done = await runLoad(folder, 'steady', {
      ...env,
      ...EASY,
      BASE_URL: direct,
      DURATION: '10s',
      HIT_PERCENT: '99.99',
    });
    expect(done.code === MISSED && missing(done, 'cache_hit_rate'), `${describe(done)} ${done.output}`);
    return describe(done);
  });
  await report.check('a slow Postgres ends it with 99: P95, and what could not be sent', async () => {
    const running = runLoad(folder, 'steady', { ...alone, RATE: '30', USERS: '5', DURATION: '12s' });
    await delay(5_000);
    fragile.proxy.delayMs = 2_000;
    const done = await running;
    fragile.proxy.delayMs = 0;
    expect(done.code === MISSED, `${describe(done)} ${done.output}`);
    expect(
      missing(done, 'http_req_duration') || missing(done, 'dropped_iterations'),
      done.result.missed.join(),
    );
    return `${describe(done)}; ${done.result.missed.join(', ')}`;
  });
  await report.check('a process that dies ends it with 99: failed requests', async () => {
    const running = runLoad(folder, 'smoke', { ...alone, DURATION: '8s' });
    await delay(5_000);
    fragile.service.child.kill('SIGKILL');
    const done = await running;
    expect(done.code === MISSED && missing(done, 'http_req_failed'), `${describe(done)} ${done.output}`);
    return `${done.result.failedPercent} % failed`;
  });
}

/** In the background of the rest: it waits for most of a minute. */
export async function proveLimits(world: LoadWorld, limit: number, report: Report): Promise<void> {
  const keys = 4;
  const file = await world.makeKeys(`limit-${limit}`, keys, limit);
  await report.check(`a limit of ${limit} is exact over the replicas, and says what is true`, async () => {
    const env = { BASE_URL: world.direct, API_KEYS_FILE: file, LIMIT: String(limit), ROUNDS: '1' };
    const done = await runLoad(world.folder, 'limits', env);
    const { byKey, checksPercent } = done.result;
    expect(done.code === 0 && checksPercent === 100, done.output);
    expect(byKey.length === keys, `${byKey.length} keys`);
    for (const { admitted, denied, mostInAMinute } of byKey) {
      // One more after Retry-After.
      expect(mostInAMinute <= limit && admitted <= limit + 1 && denied > limit, JSON.stringify(byKey));
    }
    const list = byKey.map((key) => `${key.admitted} + ${key.denied} denied`).join(', ');
    return `${list}; at most ${Math.max(...byKey.map(({ mostInAMinute }) => mostInAMinute))} in 60 s`;
  });
}
