// Goes with the example: src/features/orders
import { setTimeout as delay } from 'node:timers/promises';
import { listFailures, underLoad } from './changes.ts';
import { DATABASE, REPLICAS, type Stack } from './engine.ts';
import { expect, until, type Report } from './report.ts';
import { send } from './request.ts';

const READS = 100;
const REPLICA = {
  COMPOSE_PROFILES: 'replica',
  DATABASE_URL_REPLICA_FILE: '/run/secrets/database_url_replica',
};
const PGBOUNCER = {
  COMPOSE_PROFILES: 'pgbouncer',
  DATABASE_URL_FILE: '/run/secrets/database_url_pgbouncer',
  DATABASE_PGBOUNCER: 'true',
  DATABASE_URL_REPLICA_FILE: '',
};

const SENTINEL = {
  COMPOSE_PROFILES: 'sentinel',
  REDIS_URL_FILE: '/run/secrets/redis_url_sentinel',
  DATABASE_URL_FILE: '',
  DATABASE_PGBOUNCER: 'false',
};

/** What .env and docs/compose.md promise of the profiles. */
export async function proveProfiles(stack: Stack, key: string, report: Report): Promise<void> {
  const { compose } = stack;
  const headers = { authorization: `Bearer ${key}` };
  const ask = (service: string, text: string) =>
    compose('exec', '-T', service, 'psql', '-XqAt', '-U', 'postgres', '-d', DATABASE, '-c', text);
  const start = async (settings: Record<string, string>, service: string) => {
    stack.set(settings);
    await compose('up', '-d', '--no-build', '--wait', '--scale', `api=${REPLICAS}`, 'nginx', service);
    // compose replaces them all at once: until nginx has asked for their addresses anew, it knows none.
    await until('nginx finds the new replicas', async () => {
      for (let nth = 0; nth < 10; nth++) {
        if ((await send(`${stack.https}/health`)).status !== 200) return false;
        await delay(100);
      }
      return true;
    });
  };
  /** Of one day in the past, which nobody has cached. */
  const summarise = async (days: number) => {
    const day = new Date(Date.UTC(2000, 0, days)).toISOString().slice(0, 10);
    const { status } = await send(`${stack.https}/v1/orders/summary?from=${day}&to=${day}`, { headers });
    expect(status === 200, `a summary is answered with ${status}`);
  };
  const withoutLoss = async (work: () => Promise<unknown>) => {
    const result = await underLoad(stack, key, work);
    expect(result.failures.length === 0, listFailures(result));
    return `${result.sent} requests, 0 failed`;
  };

  await report.check('a replica of Postgres follows, and answers summaries', async () => {
    await start(REPLICA, 'postgres-replica');
    expect((await ask('postgres-replica', 'select pg_is_in_recovery()')) === 't', 'it is no replica');
    const committed = async () =>
      Number(await ask('postgres-replica', 'select sum(xact_commit) from pg_stat_database'));
    await withoutLoss(async () => undefined);
    // A tenant that has just written reads from the primary; and statistics come a second late.
    let reads = 0;
    let days = 0;
    await until('it answers reads', async () => {
      const before = await committed();
      for (let i = 0; i < READS; i++) await summarise((days += 1));
      await delay(1_500);
      reads = (await committed()) - before;
      return reads > READS / 2;
    });
    const rows = await stack.sql('select count(*) from orders');
    const follows = async () => (await ask('postgres-replica', 'select count(*) from orders')) === rows;
    await until('it has every order', follows);
    return `${reads} transactions for ${READS} reads, ${rows} orders`;
  });
  await report.check('no request is lost while the replica is stopped and started', () =>
    withoutLoss(async () => {
      await compose('stop', 'postgres-replica');
      await compose('up', '-d', '--no-deps', '--wait', 'postgres-replica');
    }),
  );
  await report.check('no request is lost through PgBouncer, and Postgres sees no other client', async () => {
    await compose('--profile', 'pgbouncer', 'build', '-q', 'pgbouncer');
    await start(PGBOUNCER, 'pgbouncer');
    const evidence = await withoutLoss(async () => undefined);
    const clients = `select count(distinct client_addr) from pg_stat_activity where usename = 'app'`;
    expect((await stack.sql(clients)) === '1', 'the service connects without it');
    return evidence;
  });
  await report.check(
    'no request is lost when Redis is, and a sentinel puts the replica in its place',
    async () => {
      const sentinels = ['sentinel-1', 'sentinel-2', 'sentinel-3'];
      stack.set(SENTINEL);
      await compose('up', '-d', '--no-build', '--wait', '--scale', `api=${REPLICAS}`, 'nginx', ...sentinels);
      const primary = () =>
        compose('exec', '-T', 'sentinel-1', 'redis-cli', '-p', '26379', 'sentinel', 'master', 'limits');
      const isUsed = async () => /"redis":"connected"/.test((await send(`${stack.https}/health`)).body);
      await until('three sentinels know each other', async () =>
        /num-other-sentinels\n2\n/.test(await primary()),
      );
      await until('the service uses it', isUsed);
      const from = performance.now();
      const evidence = await withoutLoss(async () => {
        await compose('kill', 'redis');
        await until('the replica is the primary', async () => /\nredis-replica\nport/.test(await primary()));
      });
      await until('the service uses the new one', isUsed);
      const seconds = ((performance.now() - from) / 1000).toFixed(1);
      await compose('up', '-d', '--no-deps', '--wait', 'redis');
      return `${evidence}; ${seconds} s with the load`;
    },
  );
}
