import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { growthInTenMinutes } from '../../src/cli/monitor-growth.ts';
import { runMonitor } from '../../src/cli/monitor.ts';
import { startTestApp } from '../support/app.ts';
import { createDatabase, startPostgres, withClient } from '../support/postgres.ts';
import { startRedis } from '../support/redis.ts';
import { runScript } from '../support/scripts.ts';
import { programOf, startService } from '../support/service.ts';
import { openTcpProxy } from '../support/tcp-proxy.ts';
import { until } from '../support/until.ts';

const HEADING =
  /^time {6}processes {3}req\/s {4}5xx % {3}P95 ms {3}pool % {4}hit % {3}rss MB {2}database {6}cache$/;
const COMMAND = programOf('cli/monitor');

t.test('one release, and what may become of it', async (t) => {
  const redis = await startRedis(t);
  if (!redis) return;
  const postgres = await startPostgres(t);
  const { issueKey } = await startTestApp(t, { DATABASE_URL: postgres.url });
  const { token } = await issueKey();
  const service = await startService(t, { DATABASE_URL: postgres.url, REDIS_URL: redis.url });
  const read = async () => {
    const headers = { authorization: `Bearer ${token}` };
    const response = await fetch(`${service.url}/v1/audit-events`, { headers }).catch(() => undefined);
    await response?.arrayBuffer();
    return response?.status;
  };
  const sql = (text: string) => withClient(postgres.url, (client) => client.query(text));

  /** Watches while so many clients send; `work` happens once the first look was printed. */
  async function watch(clients: number, options: string, work?: () => unknown) {
    const lines: string[] = [];
    const args = ['--url', service.metricsUrl, '--interval', '0.3', ...options.split(' ')];
    let ended = false;
    const watching = runMonitor(args, (line) => lines.push(line)).finally(() => (ended = true));
    const sending = Array.from({ length: clients }, async () => {
      while (!ended) {
        await read();
        await delay(20);
      }
    });
    if (work) {
      await until('the first look', () => lines.length > 1);
      await work();
    }
    const code = await watching;
    await Promise.all(sending);
    t.match(lines[0], HEADING);
    return { code, lines, last: lines.at(-1) };
  }

  await t.test('a healthy one passes, and each look is a line', async (t) => {
    const { code, lines, last } = await watch(4, '--seconds 1.2');
    t.match({ code, last }, { code: 0, last: 'all well' });
    t.ok(lines.length >= 5, `${lines.length} lines`);
    for (const line of lines.slice(1, -1))
      t.match(
        line,
        /^\d\d:\d\d:\d\d {3,}1 +[\d.]+ +0\.00 +\d+ +\d+ +[-\d]+ +\d+ {2}connected {5,}connected$/,
      );
    t.ok(Number(lines[2]?.split(/ +/)[2]) > 0, 'requests are counted');
    t.match(
      await runScript(t, process.execPath, [...COMMAND, '--url', service.metricsUrl, '--seconds', '0.3'], {}),
      {
        code: 0,
        stdout: /\nall well\n$/,
      },
    );
  });

  await t.test('a share of failed responses trips it, and only above its limit', async (t) => {
    await sql('alter table audit_event rename to gone');
    t.equal(await read(), 500);
    const failing = await watch(6, '--seconds 20');
    t.match(failing, { code: 2, last: /^TRIPPED: (9\d|100)\.\d % of the responses are 5xx$/ });
    t.ok(failing.lines.length >= 5, 'not before three looks');
    t.match(await watch(6, '--seconds 0.9 --error-percent 100'), { code: 0, last: 'all well' });
    t.match(await watch(1, '--seconds 0.3'), { code: 0, last: 'all well' }, 'a few answers say nothing');
    await sql('alter table gone rename to audit_event');
  });

  await t.test('a moment of failures among many answers does not', async (t) => {
    const { code, last, lines } = await watch(4, '--seconds 3 --interval 1', async () => {
      await sql('alter table audit_event rename to gone');
      await until('a failure', async () => (await read()) === 500);
      await sql('alter table gone rename to audit_event');
    });
    t.match({ code, last }, { code: 0, last: 'all well' }, lines.join('\n'));
  });

  await t.test('slow answers trip it', async (t) => {
    let locking = true;
    const holding = withClient(postgres.url, async (client) => {
      while (locking) {
        await client.query('begin; lock table audit_event in access exclusive mode');
        await delay(200);
        await client.query('commit');
      }
    });
    const { code, last } = await watch(40, '--seconds 20 --interval 0.4 --p95-seconds 0.05');
    locking = false;
    await holding;
    t.match({ code, last }, { code: 2, last: 'TRIPPED: P95 is above 0.05 s' });
  });

  await t.test('one of two processes that loses the database trips it', async (t) => {
    const proxy = await openTcpProxy(postgres.port);
    t.teardown(proxy.close);
    const DATABASE_URL = Object.assign(new URL(postgres.url), { host: `127.0.0.1:${proxy.port}` }).href;
    const second = await startService(t, { DATABASE_URL, REDIS_URL: redis.url });
    const both = `--url ${second.metricsUrl}`;
    const well = await watch(1, `--seconds 0.9 ${both}`);
    t.match(well, { code: 0, last: 'all well' });
    t.match(well.lines[1], /^\S+ +2 /, 'both are seen');
    const { code, last } = await watch(1, `--seconds 30 ${both}`, () => proxy.close());
    t.equal(code, 2);
    t.match(
      last,
      /^TRIPPED: (1 of 2 processes cannot reach the database|\d+ connections to the database failed)$/,
    );
  });

  await t.test('a cache that goes away trips it', async (t) => {
    const result = await watch(0, '--seconds 30', () => redis.stop());
    t.match(result, { code: 2, last: 'TRIPPED: the cache is away' });
    await redis.start();
    await until('the cache is back', async () => {
      const status = await fetch(`${service.metricsUrl}/internal/status`);
      return /"cache":"connected"/.test(await status.text());
    });
  });

  await t.test('a database that goes away trips it', async (t) => {
    const result = await watch(4, '--seconds 30', () => postgres.stop());
    t.match(result, { code: 2, last: 'TRIPPED: the database is away' });
    t.match(result.lines.at(-2), /disconnected {2}/);
  });

  await t.test('nobody who answers trips it, in a short watch too', async (t) => {
    service.child.kill('SIGKILL');
    await service.ended;
    // Looks 5 s apart would not be three.
    t.match(
      await runScript(t, process.execPath, [...COMMAND, '--url', service.metricsUrl, '--seconds', '0.3'], {}),
      {
        code: 2,
        stdout: /\nTRIPPED: no process responds\n$/,
      },
    );
  });
});

t.test('memory that grows is told from memory that was needed to get going', async (t) => {
  const grownBy = (bytesAt: (look: number) => number) => {
    const times = Array.from({ length: 100 }, (_, look) => look);
    const level = times.map((look) => ({ x: look * 6_000, y: 100e6 }));
    return growthInTenMinutes([level, times.map((look) => ({ x: look * 6_000, y: bytesAt(look) }))]) / 1e6;
  };
  t.equal(Math.round(grownBy((look) => 80e6 + look * 50_000)), 5, '50 kB every 6 s');
  t.equal(
    grownBy((look) => (look < 20 ? 60e6 + look * 1e6 : 80e6)),
    0,
    'a start',
  );
  t.ok(grownBy((look) => 80e6 + (look % 7) * 1e6) < 0.5, 'ups and downs');

  const { child, metricsUrl } = await startService(t, { DATABASE_URL: await createDatabase(t) });
  const args = ['--url', metricsUrl, '--interval', '0.1', '--seconds', '0.5'];
  for (const [limit, code, last] of [
    ['100000', 0, /^all well$/],
    ['0', 2, /^TRIPPED: memory grew by \d+\.\d\d MB in ten minutes$/],
  ] as const) {
    const lines: string[] = [];
    // A process that has just started grows; one that did not within half a second will have in one of these.
    await until('the watch ends so', async () => {
      lines.length = 0;
      return code === (await runMonitor([...args, '--growth-mb', limit], (line) => lines.push(line)));
    });
    t.match(lines.at(-1), last);
  }
  child.kill('SIGKILL');
});

t.test('wrong use is named', async (t) => {
  const WRONG: [string[], RegExp][] = [
    [['--seconds', 'soon'], /^--seconds must be a number of at least 0\n/],
    [['--seconds', ''], /^--seconds must be a number/],
    [['--interval', '0'], /^--interval must be a number of at least 0\.1\n/],
    [['--error-percent=-1'], /^--error-percent must be/],
    [['--p95-seconds', 'x'], /^--p95-seconds must be/],
    [['--growth-mb', 'x'], /^--growth-mb must be/],
    [['--url', 'localhost'], /^--url must be such as/],
    [['--verbose'], /--verbose/],
    [['now'], /now/],
  ];
  for (const [args, says] of WRONG) {
    const lines: string[] = [];
    t.equal(await runMonitor(args, (line) => lines.push(line)), 1, args.join(' '));
    t.match(lines.join('\n'), says);
    t.match(lines.join('\n'), /Usage: npm run monitor/);
  }
});
