import { execFile } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Redis } from 'ioredis';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { openEmbeddedPostgres } from '../../tools/dev/embedded-postgres.ts';
import { findFreePort } from '../../tools/dev/free-port.ts';
import { AppError } from '../../src/errors.ts';
import { createMetrics } from '../../src/observability/metrics.ts';
import { constraintOf } from '../../src/postgres/errors.ts';
import type { PoolOptions } from '../../src/postgres/pool.ts';
import { openPostgres, type Db, type Query } from '../../src/postgres/postgres.ts';
import { createWritePositions, UNKNOWN_POSITION } from '../../src/postgres/replica/write-positions.ts';
import { createReplicaReader } from '../../src/postgres/replica/replica.ts';
import { makeDataFolder } from '../support/folders.ts';
import { startPgBouncer } from '../support/pgbouncer.ts';
import { createEmptyDatabase, withClient } from '../support/postgres.ts';
import { forgetProcess, registerProcess, signalTree } from '../support/processes.ts';
import { redisUrl, startRedis } from '../support/redis.ts';
import { startTcpProxy } from '../support/tcp-proxy.ts';
import { until } from '../support/until.ts';

const QUERY_TIMEOUT_MS = 400;
const POOL_WAIT_MS = 300;
const CHECK_MS = 1000;
const CLOSE_TIMEOUT_MS = 2250;
const SLACK_MS = 700;

const sleep3s: Query = { name: 'sleep', text: 'select pg_sleep(3)' };
const backend: Query = { name: 'backend', text: 'select pg_backend_pid() as pid' };
const now: Query = { name: 'one', text: 'select 1 as one' };

function open(
  t: Test,
  url: string,
  options: Partial<PoolOptions> = {},
  target: 'primary' | 'replica' = 'primary',
) {
  const lines: { level: number; msg: string }[] = [];
  const log = pino({ level: 'info' }, { write: (line: string) => lines.push(JSON.parse(line)) });
  const metrics = createMetrics('0.0.0');
  const defaults = {
    poolMax: 3,
    // A busy machine needs a while for a connection, and is not taken for a silent server.
    poolWaitMs: 3000,
    queryTimeoutMs: QUERY_TIMEOUT_MS,
    pgbouncer: false,
  };
  const db = openPostgres(
    { url, applicationName: 'test', ...defaults, ...options },
    { log, metrics, target },
  );
  t.teardown(() => db.close());
  return { db, log, metrics, lines };
}

async function failure(promise: Promise<unknown>) {
  const start = performance.now();
  const err: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  return { err, code: err instanceof AppError ? err.code : undefined, ms: performance.now() - start };
}

function causeCode(err: unknown): unknown {
  const cause = err instanceof Error ? err.cause : undefined;
  return cause instanceof Error && 'code' in cause ? cause.code : undefined;
}

const count = (url: string, where: string) =>
  withClient(url, async (client) => {
    const text = `select count(*)::int as n from pg_stat_activity where datname = current_database() and ${where}`;
    return Number((await client.query<{ n: number }>(text)).rows[0]?.n);
  });

const execute = (url: string, text: string) => withClient(url, (client) => client.query(text));

async function pidOf(tx: Pick<Db, 'query'>): Promise<number> {
  const [row] = await tx.query<{ pid: number }>(backend);
  return row?.pid ?? 0;
}

// The pair waits most of its time.
t.jobs = 2;

t.test('on a pair of servers', async (t) => {
  const { primary, standby, startRelic } = await startPair(t);

  t.test('a server that freezes keeps nobody longer than the timeouts, and is used again', async (t) => {
    // Postgres cannot stop what is too slow, so the longer time is not waited for.
    const waits = { poolWaitMs: 2000, queryTimeoutMs: 30_000 };
    const { db } = open(t, primary.url, waits);
    await Promise.all([pidOf(db), pidOf(db)]);
    primary.freeze();
    t.teardown(primary.thaw);

    const [query, transaction, ping] = await Promise.all([
      failure(db.query(now)),
      failure(db.transaction(pidOf)),
      failure(db.checks.query(now)),
    ]);
    t.equal(query.code, 'unavailable');
    t.equal(transaction.code, 'unavailable');
    const ms = Math.max(query.ms, transaction.ms);
    t.ok(ms < waits.poolWaitMs + SLACK_MS, `${ms} ms`);
    t.equal(ping.code, 'unavailable');
    t.ok(ping.ms < CHECK_MS + SLACK_MS, `${ping.ms} ms`);

    const again = await failure(db.query(now));
    t.equal(again.code, 'unavailable', 'no new connection either');
    t.ok(again.ms < waits.poolWaitMs + SLACK_MS, `${again.ms} ms`);
    primary.thaw();
    t.same(await db.query(now), [{ one: 1 }]);
  });

  t.test('close does not wait for a frozen server', async (t) => {
    const { db } = open(t, primary.url);
    await pidOf(db);
    t.equal(socketsTo(primary.url), 1);
    primary.freeze();
    t.teardown(primary.thaw);

    const start = performance.now();
    await db.close();

    t.ok(performance.now() - start < SLACK_MS);
    await until('nothing is left open', async () => socketsTo(primary.url) === 0);
  });

  t.test('a crash and a restart end no process, and nobody has to do anything', async (t) => {
    const { db } = open(t, primary.url);
    for (const takeDown of [primary.stop, primary.kill]) {
      await pidOf(db);
      const caught = failure(
        db.transaction(async (tx) => {
          await pidOf(tx);
          await takeDown();
          await tx.query(now);
        }),
      );
      t.equal((await caught).code, 'unavailable');
      t.equal((await failure(db.query(now))).code, 'unavailable');
      await primary.start();
      t.same(await db.query(now), [{ one: 1 }]);
    }
  });

  t.test('a replica', async (t) => {
    const owner = open(t, primary.url, { queryTimeoutMs: 2000 });
    const reader = open(t, standby.url, { queryTimeoutMs: 2000, readOnly: true }, 'replica');
    const positions = createWritePositions();
    const replica = createReplicaReader({ primary: owner.db, replica: reader.db, positions }, reader);
    await execute(primary.url, 'create table note (tenant text, body text)');
    const hasTable: Query = { name: 'table', text: `select to_regclass('note') is not null as found` };
    await until('the table is there', async () => {
      const [row] = await reader.db.query<{ found: boolean }>(hasTable).catch(() => []);
      return row?.found === true;
    });
    const where: Query = { name: 'where', text: 'select pg_is_in_recovery() as replica' };
    const readsFrom = async (tenant: string) => {
      const [row] = await replica.read<{ replica: boolean }>(tenant, where);
      return row?.replica ? 'replica' : 'primary';
    };
    const write = async (tenant: string, body: string) => {
      await owner.db.query({
        name: 'write',
        text: 'insert into note values ($1, $2)',
        values: [tenant, body],
      });
      await replica.recordWritePosition(tenant);
    };
    const notes = async (tenant: string) => {
      const text = 'select body from note where tenant = $1';
      return (await replica.read<{ body: string }>(tenant, { name: 'notes', text, values: [tenant] })).length;
    };
    const replicaIsUsed = () =>
      until('the replica is used', async () => (await readsFrom('nobody')) === 'replica');

    t.test('answers reads of who did not write, and refuses writes', async (t) => {
      t.equal(await readsFrom('nobody'), 'primary', 'nothing is known of it yet');
      await replicaIsUsed();

      const insert = { name: 'insert', text: `insert into note values ('a', 'b')` };
      t.match((await failure(reader.db.query(insert))).err, { code: '25006' });
      const writable = open(t, primary.url, { readOnly: true }, 'replica');
      t.match((await failure(writable.db.query(insert))).err, { code: '25006' });
      t.match((await failure(writable.db.transaction((tx) => tx.query(insert)))).err, { code: '25006' });
    });

    t.test('that is behind does not hide from a tenant what it wrote', async (t) => {
      for (let round = 1; round <= 20; round += 1) {
        await write('busy', 'x');
        t.equal(await notes('busy'), round);
      }
      await execute(standby.url, `alter system set recovery_min_apply_delay = '1s'`);
      await execute(standby.url, 'select pg_reload_conf()');
      t.teardown(async () => {
        await execute(standby.url, 'alter system reset recovery_min_apply_delay');
        await execute(standby.url, 'select pg_reload_conf()');
      });

      await write('writer', 'x');
      t.equal(await notes('writer'), 1);
      t.equal(await readsFrom('writer'), 'primary');
      t.equal(await readsFrom('other'), 'replica');
      const stale = { name: 'stale', text: `select body from note where tenant = 'writer'` };
      t.same(await reader.db.query(stale), [], 'the replica did not have it');

      await until('it caught up', async () => (await readsFrom('writer')) === 'replica');
      t.equal(await notes('writer'), 1);
    });

    t.test('that lags more than ten seconds is not read from, and the lag is measured', async (t) => {
      await replicaIsUsed();
      t.ok((await replica.lagSeconds()) < 2);
      await execute(standby.url, 'select pg_wal_replay_pause()');
      t.teardown(() => execute(standby.url, 'select pg_wal_replay_resume()'));
      const pausedAt = performance.now();

      // Other tenants write, so that it is seen to be behind.
      await until('reads leave it', async () => {
        await execute(primary.url, `insert into note values ('other', 'y')`);
        return (await readsFrom('nobody')) === 'primary';
      });

      const lagMs = (await replica.lagSeconds()) * 1000;
      t.ok(performance.now() - pausedAt < 10_000 + 2 * SLACK_MS, 'not much later');
      t.ok(lagMs >= 8500 && lagMs < 10_000 + 2 * SLACK_MS, `${lagMs} ms`);
      t.match(await reader.metrics.registry.metrics(), /db_replica_lag_seconds (8|9|1\d)/);
    });

    t.test('that is stopped, frozen or restarted costs a moment and no answer', async (t) => {
      await replicaIsUsed();
      const timed = async () => {
        const start = performance.now();
        const from = await readsFrom('nobody');
        return { from, ms: performance.now() - start };
      };

      standby.freeze();
      const first = await timed();
      const second = await timed();
      standby.thaw();
      t.equal(first.from, 'primary');
      t.ok(first.ms < 1000 + SLACK_MS, `${first.ms} ms`);
      t.equal(second.from, 'primary');
      t.ok(second.ms < 200, `${second.ms} ms, nobody waits twice`);
      await replicaIsUsed();

      await standby.stop();
      const gone = await timed();
      t.equal(gone.from, 'primary');
      t.ok(gone.ms < 1000 + SLACK_MS, `${gone.ms} ms`);
      await write('writer', 'z');
      t.equal(await notes('writer'), 2);
      await standby.start();
      await replicaIsUsed();

      const away = reader.lines.filter((line) => line.msg.startsWith('reads go to the primary')).length;
      t.ok(away >= 2, 'both are said');
    });

    t.test('that comes back behind is not trusted for what it had before', async (t) => {
      await replicaIsUsed();
      await standby.stop();
      const relic = await startRelic();
      await until('it answers', async () => (await failure(reader.db.query(now))).err === undefined);
      await delay(1050);

      const lagSeconds = await replica.lagSeconds();
      t.ok(lagSeconds > 10, `${lagSeconds} s`);
      t.equal(await readsFrom('nobody'), 'primary');

      await relic.stop();
      await standby.start();
      await replicaIsUsed();
    });

    t.test('shares the write positions of all processes, and is not read from without them', async (t) => {
      const server = await startRedis(t);
      if (!server) return;
      const redis = new Redis(server.url, { maxRetriesPerRequest: 0, enableOfflineQueue: false });
      redis.on('error', () => undefined);
      t.teardown(() => redis.disconnect());
      await until('Redis is ready', async () => redis.status === 'ready');
      const processOf = () =>
        createReplicaReader(
          {
            primary: owner.db,
            replica: reader.db,
            positions: createWritePositions({ client: redis, ready: () => true }),
          },
          reader,
        );
      const [one, other] = [processOf(), processOf()];
      const from = async () => {
        await Promise.all([one.lagSeconds(), other.lagSeconds()]);
        return (await other.read<{ replica: boolean }>('nobody', where))[0]?.replica ? 'replica' : 'primary';
      };
      await until('the replica is used', async () => (await from()) === 'replica');

      await execute(standby.url, 'select pg_wal_replay_pause()');
      t.teardown(() => execute(standby.url, 'select pg_wal_replay_resume()'));
      await execute(primary.url, `insert into note values ('nobody', 'y')`);
      await one.recordWritePosition('nobody');
      t.equal(await from(), 'primary', 'the other process wrote');
      t.ok((await redis.pttl('hp:wrote:nobody')) > 55_000, 'positions go away by themselves');
      await execute(standby.url, 'select pg_wal_replay_resume()');
      await until('the replica is used', async () => (await from()) === 'replica');

      await server.stop();
      t.equal(await from(), 'primary');
      await t.resolves(one.recordWritePosition('nobody'));
      await server.start();
      await until('Redis is ready', async () => redis.status === 'ready');
      t.equal(await from(), 'primary', 'positions of the outage may be missing');
    });
  });
});

t.test('on one database', async (t) => {
  t.test('values keep what they are: int8 as a string, timestamptz as a Date', async (t) => {
    const { db } = open(t, await createEmptyDatabase(t));

    const [row] = await db.query<{ big: string; at: Date }>({
      name: 'values',
      text: 'select 9007199254740993::int8 as big, $1::timestamptz as at',
      values: ['2026-01-02T03:04:05.678Z'],
    });

    t.equal(row?.big, '9007199254740993');
    t.equal(row?.at.toISOString(), '2026-01-02T03:04:05.678Z');
  });

  t.test('each connection carries its name and its timeouts', async (t) => {
    const { db } = open(t, await createEmptyDatabase(t));

    const names = [
      'application_name',
      'statement_timeout',
      'lock_timeout',
      'idle_in_transaction_session_timeout',
    ];
    const rows = await db.query<{ value: string }>({
      name: 'settings',
      text: 'select current_setting(name) as value from unnest($1::text[]) with ordinality as s (name, i) order by i',
      values: [names],
    });

    t.same(
      rows.map((row) => row.value),
      ['test', '400ms', '200ms', '10s'],
    );
  });

  t.test('an exhausted pool answers unavailable within the wait, and serves again', async (t) => {
    const { db, metrics } = open(t, await createEmptyDatabase(t), {
      poolMax: 2,
      poolWaitMs: POOL_WAIT_MS,
      queryTimeoutMs: 5000,
    });
    const holders = [1, 2].map(() => db.query({ name: 'hold', text: 'select pg_sleep(0.9)' }));

    const asked = Promise.all([failure(db.query(now)), db.checks.query(now)]);
    t.equal(db.stats().waiting, 1);
    const [query, check] = await asked;

    t.equal(query.code, 'unavailable');
    t.equal(query.err instanceof AppError && query.err.retryAfterSeconds, 1);
    t.ok(query.ms >= POOL_WAIT_MS - 5 && query.ms < POOL_WAIT_MS + SLACK_MS, `${query.ms} ms`);
    t.same(check, [{ one: 1 }], 'a busy pool is no outage');
    t.match(db.stats(), { size: 2, max: 2, active: 2, idle: 0 });
    await Promise.all(holders);
    t.same(await db.query(now), [{ one: 1 }]);
    t.match(db.stats(), { active: 0, idle: 2 });
    const exposed = await metrics.registry.metrics();
    t.match(exposed, /db_connection_errors_total [1-9]/);
    t.match(exposed, /db_query_latency_seconds_count\{target="primary"\} ([3-9]|\d\d)/);
    t.match(exposed, /db_pool_wait_seconds_count ([4-9]|\d\d)/);
  });

  t.test('a statement that takes too long is a timeout, and Postgres has stopped it', async (t) => {
    const url = await createEmptyDatabase(t);
    const { db } = open(t, url);

    const { code, err, ms } = await failure(db.query(sleep3s));

    t.equal(code, 'timeout');
    t.equal(causeCode(err), '57014');
    t.ok(ms < QUERY_TIMEOUT_MS + SLACK_MS, `${ms} ms`);
    t.equal(
      await count(url, `query like '%pg_sleep(3)%' and state = 'active' and pid <> pg_backend_pid()`),
      0,
    );
  });

  t.test('a lock that is not had in time is unavailable, not a timeout', async (t) => {
    const url = await createEmptyDatabase(t);
    const { db } = open(t, url);
    await execute(url, 'create table thing (id int primary key); insert into thing values (1)');

    await db.transaction(async (tx) => {
      await tx.query({ name: 'lock', text: 'select id from thing for update' });
      const { code, err } = await failure(db.query({ name: 'delete', text: 'delete from thing' }));
      t.equal(code, 'unavailable');
      t.equal(causeCode(err), '55P03');
    });
  });

  t.test('a violated constraint comes through with its name and costs no connection', async (t) => {
    const url = await createEmptyDatabase(t);
    const { db } = open(t, url, { poolMax: 1 });
    await execute(url, 'create table thing (id int, constraint thing_once unique (id), check (id > 0))');
    const insert = (id: number) =>
      db.query({ name: 'insert', text: 'insert into thing values ($1)', values: [id] });
    await insert(1);
    const pid = await pidOf(db);

    t.equal(constraintOf((await failure(insert(1))).err), 'thing_once');
    t.equal(constraintOf((await failure(insert(-1))).err), 'thing_id_check');
    t.equal(constraintOf((await failure(db.query({ name: 'bad', text: 'select nothing' }))).err), undefined);
    t.equal(await pidOf(db), pid);
  });

  t.test('a migration that changes the columns of a named statement breaks no query', async (t) => {
    const url = await createEmptyDatabase(t);
    // More connections with an old plan than there are tries.
    const { db } = open(t, url, { poolMax: 5 });
    await execute(url, 'create table thing (id int); insert into thing values (1)');
    const all: Query = { name: 'all', text: 'select * from thing' };
    const onEach = () => Promise.all([1, 2, 3, 4, 5].map(() => db.query(all)));

    await onEach();
    await execute(url, 'alter table thing add column name text');
    t.same(await db.query(all), [{ id: 1, name: null }]);

    await onEach();
    await execute(url, 'alter table thing drop column name');
    t.same(await db.transaction((tx) => tx.query(all)), [{ id: 1 }]);
  });

  t.test('a server that cannot be reached is unavailable at once and never ends the process', async (t) => {
    const url = new URL(await createEmptyDatabase(t));
    const nobody = new URL(url);
    nobody.port = String(await findFreePort());
    const stranger = new URL(url);
    stranger.password = 'not-the-password';
    const nowhere = new URL(url);
    nowhere.pathname = '/no_such_database';

    for (const each of [nobody, stranger, nowhere]) {
      const { db } = open(t, each.href);
      const { err, code, ms } = await failure(db.query(now));
      t.equal(code, 'unavailable');
      t.notMatch(String(err), /password|database|ECONNREFUSED/);
      t.ok(ms < POOL_WAIT_MS + SLACK_MS, `${ms} ms`);
      t.equal((await failure(db.transaction(pidOf))).code, 'unavailable');
      t.equal((await failure(db.checks.query(now))).code, 'unavailable');
    }
  });

  t.test('sslrootcert=system is no file', async (t) => {
    const url = `${await createEmptyDatabase(t)}?sslmode=verify-full&sslrootcert=system`;
    const { err } = await failure(open(t, url).db.query(now));
    t.match((err as Error).cause, { message: 'The server does not support SSL connections' });
  });

  t.test('too many connections are unavailable until there is room again', async (t) => {
    const url = new URL(await createEmptyDatabase(t));
    const role = `role_${url.pathname.slice(1)}`;
    await execute(url.href, `create role ${role} login password 'p' connection limit 1`);
    t.teardown(() => execute(url.href, `drop role ${role}`));
    const limited = new URL(url);
    limited.username = role;
    limited.password = 'p';

    await withClient(limited.href, async () => {
      const { db } = open(t, limited.href);
      const { code, err } = await failure(db.query(now));
      t.equal(code, 'unavailable');
      t.equal(causeCode(err), '53300');
      await db.close();
    });

    await until('the connection is gone', async () => (await count(url.href, `usename = '${role}'`)) === 0);
    const { db } = open(t, limited.href);
    t.same(await db.query(now), [{ one: 1 }]);
    await db.close();
  });

  t.test('a primary that became read-only is left for a new connection', async (t) => {
    const url = await createEmptyDatabase(t);
    const name = new URL(url).pathname.slice(1);
    const { db } = open(t, url, { poolMax: 1 });
    await execute(
      url,
      `create table thing (id int); alter database ${name} set default_transaction_read_only = on`,
    );
    const insert = { name: 'insert', text: 'insert into thing values (1) returning id' };

    const { code, err } = await failure(db.query(insert));
    t.equal(code, 'unavailable');
    t.equal(causeCode(err), '25006');

    await execute(url, `set transaction read write; alter database ${name} reset all`);
    t.same(await db.query(insert), [{ id: 1 }]);
  });

  t.test(
    'a connection that leads nowhere costs no more than the wait, and its siblings are not used',
    async (t) => {
      const url = new URL(await createEmptyDatabase(t));
      const proxy = await startTcpProxy(t, Number(url.port));
      url.port = String(proxy.port);
      const waits = { poolWaitMs: 2000, queryTimeoutMs: 30_000 };
      const { db } = open(t, url.href, waits);
      const idle = () => Promise.all([db.query(now), db.query(now), db.query(now)]);

      for (const idleMs of [0, 1500]) {
        await idle();
        await delay(idleMs);
        proxy.cut();
        const asked = [db.query(now), db.transaction(pidOf), db.query(now), db.query(now)].map(failure);
        for (const { code, ms } of await Promise.all(asked)) {
          t.equal(code, 'unavailable', `idle for ${idleMs} ms`);
          // A process that was suspended on a busy machine asks once more, after a quarter and for half of the wait.
          t.ok(ms < 1.75 * waits.poolWaitMs + SLACK_MS, `${ms} ms`);
        }
        proxy.mend();
        t.same(await db.query(now), [{ one: 1 }], 'it heals by itself');
      }

      const alone = open(t, url.href, { ...waits, poolMax: 1 }).db;
      const stopped = await pidOf(alone);
      process.kill(stopped, 'SIGSTOP');
      t.teardown(() => process.kill(stopped, 'SIGCONT'));
      const { code, ms } = await failure(alone.query(now));
      t.equal(code, 'unavailable', 'a backend that is not at work, of a server that is');
      t.ok(ms < waits.poolWaitMs + SLACK_MS, `${ms} ms`);
      t.same(await alone.query(now), [{ one: 1 }]);
      await alone.query({ name: 'long', text: 'select pg_sleep(3)' });
    },
  );

  t.test('a value that cannot be sent breaks no connection', async (t) => {
    const { db, metrics, lines } = open(t, await createEmptyDatabase(t), { poolMax: 1 });
    const echo = (value: unknown) => ({ name: 'echo', text: 'select $1::jsonb as value', values: [value] });
    const pid = await pidOf(db);

    const { err } = await failure(db.query(echo({ id: 1n })));

    t.type(err, TypeError);
    t.same(await db.query(echo({ id: 1 })), [{ value: { id: 1 } }]);
    t.equal(
      (await failure(db.transaction((tx) => tx.query(echo([{ id: 1n }]))))).err instanceof TypeError,
      true,
    );
    t.equal(await pidOf(db), pid);
    t.match(await metrics.registry.metrics(), /db_connection_errors_total 0/);
    t.same(lines, []);
  });

  t.test('a session that the server closes because nobody used it is no error', async (t) => {
    const url = await createEmptyDatabase(t);
    await execute(url, `alter database ${new URL(url).pathname.slice(1)} set idle_session_timeout = '100ms'`);
    const { db, metrics, lines } = open(t, url);

    await pidOf(db);
    await until('it left the pool', () => db.stats().size === 0);

    t.same(await db.query(now), [{ one: 1 }]);
    t.match(await metrics.registry.metrics(), /db_connection_errors_total 0/);
    t.same(lines, []);
  });

  t.test('close waits for what runs, and not for ever', async (t) => {
    const url = await createEmptyDatabase(t);
    const { db } = open(t, url, { queryTimeoutMs: 30_000 });
    const running = db.query({ name: 'short', text: 'select pg_sleep(0.3)' });
    await until(
      'it runs',
      async () => (await count(url, `query like '%pg_sleep(0.3)%' and state = 'active'`)) > 0,
    );
    await Promise.all([db.close(), db.close()]);
    t.equal((await failure(running)).err, undefined);
    t.equal((await failure(db.query(now))).code, 'unavailable');

    const stuck = open(t, url, { queryTimeoutMs: 30_000 }).db;
    const cut = failure(stuck.query({ name: 'long', text: 'select pg_sleep(20)' }));
    await until(
      'it runs',
      async () => (await count(url, `query like '%pg_sleep(20)%' and state = 'active'`)) > 0,
    );
    const start = performance.now();
    await stuck.close();
    t.ok(performance.now() - start < CLOSE_TIMEOUT_MS + SLACK_MS);
    t.equal((await cut).code, 'unavailable');
  });
});

t.test('transactions', async (t) => {
  t.test('commit all or nothing', async (t) => {
    const url = await createEmptyDatabase(t);
    const { db } = open(t, url, { poolMax: 1 });
    await execute(url, 'create table thing (id int)');
    const insert = { name: 'insert', text: 'insert into thing values (1)' };
    const rows = () => db.query({ name: 'rows', text: 'select id from thing' });

    await t.rejects(
      db.transaction(async (tx) => {
        await tx.query(insert);
        throw new Error('changed my mind');
      }),
      { message: 'changed my mind' },
    );
    t.same(await rows(), []);

    t.equal(await db.transaction(async (tx) => (await tx.query(insert), 'done')), 'done');
    t.same(await rows(), [{ id: 1 }]);
  });

  t.test('a transaction that swallowed an error is not reported as committed', async (t) => {
    const url = await createEmptyDatabase(t);
    const { db } = open(t, url, { poolMax: 1 });
    await execute(url, 'create table thing (id int constraint thing_positive check (id > 0))');
    const insert = (id: number) => ({ name: 'insert', text: 'insert into thing values ($1)', values: [id] });

    const { err } = await failure(
      db.transaction(async (tx) => {
        await tx.query(insert(1));
        await tx.query(insert(-1)).catch(() => undefined);
      }),
    );

    t.equal(constraintOf(err), 'thing_positive');
    t.same(await db.query({ name: 'rows', text: 'select id from thing' }), []);
  });

  t.test('an error during COMMIT is told, and a lost COMMIT is not called undone', async (t) => {
    const url = await createEmptyDatabase(t);
    const { db } = open(t, url);
    await execute(
      url,
      `create table thing (id int, constraint thing_once unique (id) deferrable initially deferred);
       create table doomed (id int);
       create function die() returns trigger language plpgsql as
         $$ begin perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(1); return null; end $$;
       create constraint trigger die after insert on doomed deferrable initially deferred
         for each row execute function die()`,
    );

    const twice = await failure(
      db.transaction((tx) => tx.query({ name: 'twice', text: 'insert into thing values (1), (1)' })),
    );
    t.equal(constraintOf(twice.err), 'thing_once');

    const lost = await failure(
      db.transaction((tx) => tx.query({ name: 'doom', text: 'insert into doomed values (1)' })),
    );
    t.equal(lost.code, 'timeout');
    t.match(String(lost.err), /unknown whether/);
    t.same(await db.query(now), [{ one: 1 }]);
  });

  t.test('a deadlock is run again', async (t) => {
    const url = await createEmptyDatabase(t);
    const { db } = open(t, url, { queryTimeoutMs: 10_000 });
    await execute(
      url,
      'create table thing (id int primary key, n int); insert into thing values (1, 0), (2, 0)',
    );
    await execute(url, `alter database ${new URL(url).pathname.slice(1)} set deadlock_timeout = '50ms'`);
    const add = (id: number) => ({
      name: 'add',
      text: 'update thing set n = n + 1 where id = $1',
      values: [id],
    });
    let runs = 0;
    const meeting = rendezvous(2);

    const both = ([first, second]: [number, number]) =>
      db.transaction(async (tx) => {
        runs += 1;
        await tx.query(add(first));
        await meeting();
        await tx.query(add(second));
      });
    await Promise.all([both([1, 2]), both([2, 1])]);

    t.equal(runs, 3);
    t.same(await db.query({ name: 'n', text: 'select n from thing' }), [{ n: 2 }, { n: 2 }]);
  });

  t.test('a serialization failure is run again, three times at most', async (t) => {
    const url = await createEmptyDatabase(t);
    const { db } = open(t, url);
    await execute(url, 'create table counter (n int); insert into counter values (0)');
    const bump = { name: 'bump', text: 'update counter set n = n + 1' };
    const bumpAround = (disturbances: number) => {
      let runs = 0;
      const done = db.transaction(async (tx) => {
        runs += 1;
        await tx.query({ name: 'level', text: 'set transaction isolation level repeatable read' });
        await tx.query({ name: 'read', text: 'select n from counter' });
        if (runs <= disturbances) await db.query(bump);
        await tx.query(bump);
      });
      return done.then(
        () => ({ runs, err: undefined }),
        (err: unknown) => ({ runs, err }),
      );
    };

    t.same(await bumpAround(2), { runs: 3, err: undefined });
    t.same(await db.query({ name: 'n', text: 'select n from counter' }), [{ n: 3 }]);
    const { runs, err } = await bumpAround(9);
    t.equal(runs, 3);
    t.match(err, { code: 'unavailable', retryAfterSeconds: 1 });
  });

  t.test('a query after the end of its transaction is refused', async (t) => {
    const { db } = open(t, await createEmptyDatabase(t));
    let late: (() => Promise<unknown>) | undefined;

    await db.transaction(async (tx) => {
      late = () => tx.query(now);
    });

    await t.rejects(() => late?.() ?? Promise.resolve(), /after its transaction was over/);
  });

  t.test('one that idles too long is ended by Postgres, as a timeout', async (t) => {
    const url = new URL(await createEmptyDatabase(t));
    url.searchParams.set('idle_in_transaction_session_timeout', '100');
    const { db } = open(t, url.href);

    const { code, err } = await failure(
      db.transaction(async (tx) => {
        const pid = await pidOf(tx);
        await until('it is gone', async () => (await count(url.href, `pid = ${pid}`)) === 0);
        await tx.query(now);
      }),
    );

    t.equal(code, 'timeout');
    t.equal(causeCode(err), '25P03');
    t.same(await db.query(now), [{ one: 1 }]);
  });
});

t.test('a killed connection', async (t) => {
  const kill = async (url: string, pid: number) => {
    await execute(url, `select pg_terminate_backend(${pid})`);
    await until('it is gone', async () => (await count(url, `pid = ${pid}`)) === 0);
  };

  t.test('that was idle is said once and replaced', async (t) => {
    const url = await createEmptyDatabase(t);
    const { db, lines } = open(t, url, { poolMax: 1 });

    await kill(url, await pidOf(db));
    await until('it left the pool', async () => db.stats().size === 0);

    t.same(
      lines.map((line) => line.msg),
      ['lost a connection to Postgres'],
    );
    t.same(await db.query(now), [{ one: 1 }]);
  });

  t.test('that ran a statement makes it unavailable', async (t) => {
    const url = await createEmptyDatabase(t);
    const { db } = open(t, url, { poolMax: 1, queryTimeoutMs: 5000 });
    const pid = await pidOf(db);

    const victim = failure(db.query(sleep3s));
    await kill(url, pid);

    const { code, err } = await victim;
    t.equal(code, 'unavailable');
    t.equal(causeCode(err), '57P01');
    t.same(await db.query(now), [{ one: 1 }]);
  });

  t.test('that was checked out without a statement fails its transaction, also a silent one', async (t) => {
    const url = await createEmptyDatabase(t);
    const { db } = open(t, url, { poolMax: 1 });
    const dying = (then: (tx: Pick<Db, 'query'>) => Promise<unknown>) =>
      failure(
        db.transaction(async (tx) => {
          await kill(url, await pidOf(tx));
          await then(tx);
        }),
      );

    const asked = await dying((tx) => tx.query(now));
    t.equal(asked.code, 'unavailable');
    t.equal(causeCode(asked.err), '57P01');
    t.equal((await dying(async () => undefined)).code, 'unavailable');
    t.equal((await dying((tx) => tx.query(now).catch(() => undefined))).code, 'unavailable');
    t.same(await db.query(now), [{ one: 1 }]);
  });
});

t.test('write positions', async (t) => {
  const low = '00000001/00000010';
  const high = '00000001/00000020';

  t.test('never go back, except from unknown', async (t) => {
    const positions = createWritePositions();
    await positions.set('a', high);
    await positions.set('a', low);
    t.equal(await positions.get('a'), high);
    await positions.set('b', UNKNOWN_POSITION);
    await positions.set('b', low);
    t.equal(await positions.get('b'), low);
    t.equal(await positions.get('c'), undefined);
  });

  t.test('are the same in Redis', async (t) => {
    const url = await redisUrl(t);
    if (!url) return;
    const redis = new Redis(url);
    t.teardown(() => redis.disconnect());
    const ofProcess = () => createWritePositions({ client: redis, ready: () => true });
    const [one, other] = [ofProcess(), ofProcess()];

    await one.set('a', high);
    await other.set('a', low);
    t.equal(await ofProcess().get('a'), high);
    await one.set('b', UNKNOWN_POSITION);
    await other.set('b', low);
    t.equal(await ofProcess().get('b'), low);
    t.equal(await one.get('c'), undefined);
  });

  t.test('that had to make room count for everybody', async (t) => {
    const positions = createWritePositions(undefined, 2);
    await positions.set('a', high);
    await positions.set('b', low);
    await positions.set('c', low);
    t.equal(await positions.get('a'), high);
    t.equal(await positions.get('b'), high);
  });
});

t.test('behind PgBouncer in transaction mode', async (t) => {
  const direct = await createEmptyDatabase(t);
  const url = await startPgBouncer(t, direct);
  if (url === undefined) return;
  await execute(direct, 'create table thing (id int primary key)');
  const { db } = open(t, url, { pgbouncer: true });

  t.test('the same statements work on whatever connection they get', async (t) => {
    const named = (n: number): Query => ({ name: 'plus', text: 'select $1::int + 1 as n', values: [n] });
    for (let round = 0; round < 5; round += 1) {
      const rows = await Promise.all([1, 2, 3].map((n) => db.query<{ n: number }>(named(n))));
      t.same(rows.flat(), [{ n: 2 }, { n: 3 }, { n: 4 }]);
    }
    t.same(await db.checks.query(now), [{ one: 1 }]);
  });

  t.test('a service that is not told of it says how to mend that', async (t) => {
    const { err, code } = await failure(open(t, url).db.query(now));
    t.equal(code, 'unavailable');
    t.match((err as Error).cause, { message: /set DATABASE_PGBOUNCER=true/ });
  });

  t.test('a transaction has its timeouts and leaves none behind', async (t) => {
    const setting: Query = { name: 'setting', text: `select current_setting('statement_timeout') as value` };
    const insert: Query = { name: 'insert', text: 'insert into thing values (1) returning id' };

    await db.transaction(async (tx) => {
      t.same(await tx.query(setting), [{ value: '400ms' }]);
      t.same(await tx.query(insert), [{ id: 1 }]);
    });
    t.same((await execute(url, setting.text)).rows, [{ value: '0' }]);
    t.equal(constraintOf((await failure(db.transaction((tx) => tx.query(insert)))).err), 'thing_pkey');
    t.equal((await failure(db.transaction((tx) => tx.query(sleep3s)))).code, 'timeout');
    t.same(await db.query(setting), [{ value: '400ms' }], 'as has a statement outside of one');
    t.equal((await failure(db.query(sleep3s))).code, 'timeout');
    t.equal(
      await count(direct, `query like '%pg_sleep(3)%' and state = 'active' and pid <> pg_backend_pid()`),
      0,
    );
  });
});

/** Resolves for all callers when `parties` have called; later calls resolve at once. */
function rendezvous(parties: number): () => Promise<void> {
  let missing = parties;
  let release: () => void;
  const opened = new Promise<void>((resolve) => {
    release = resolve;
  });
  return () => {
    missing -= 1;
    if (missing === 0) release();
    return opened;
  };
}

/** Connections of this process to that server, closed ones that nobody let go of included. */
function socketsTo(url: string): number {
  const { _getActiveHandles: handles } = process as unknown as { _getActiveHandles(): object[] };
  const port = Number(new URL(url).port);
  return handles.call(process).filter((each) => 'remotePort' in each && each.remotePort === port).length;
}

/** A primary and its hot standby, copied cold: the embedded Postgres has no pg_basebackup. */
async function startPair(t: Test) {
  const folders = ['primary', 'standby'].map((name) => makeDataFolder(`hardpoint-${name}-`));
  const [primaryDir = '', standbyDir = ''] = folders;
  const relicDir = join(standbyDir, 'relic');
  mkdirSync(relicDir);
  for (const folder of folders) chmodSync(folder, 0o755);
  t.teardown(() => folders.forEach((folder) => rmSync(folder, { recursive: true, force: true })));

  const primary = await startServer(t, primaryDir, {});
  await primary.stop();
  const { uid, gid } = statSync(join(primaryDir, 'cluster'));
  for (const folder of [standbyDir, relicDir]) {
    await promisify(execFile)('cp', ['-a', `${primaryDir}/.`, folder]);
    writeFileSync(join(folder, 'cluster', 'standby.signal'), '');
    chownSync(join(folder, 'cluster', 'standby.signal'), uid, gid);
  }
  await primary.start();
  const { username, password, port } = new URL(primary.url);
  const source = `host=127.0.0.1 port=${port} user=${username} password=${password}`;
  // As fast as the tests are: the default waits 5 s before it connects anew.
  const settings = { primary_conninfo: source, wal_retrieve_retry_interval: '200ms' };
  const standby = await startServer(t, standbyDir, settings);
  /** A standby in the place of the stopped one, as old as the copy and cut off from the primary. */
  const startRelic = () => startServer(t, relicDir, {}, Number(new URL(standby.url).port));
  return { primary, standby, startRelic };
}

async function startServer(t: Test, dataDir: string, settings: Record<string, string>, wantedPort?: number) {
  const launch = (port?: number) =>
    openEmbeddedPostgres({ dataDir, settings, say: (line) => t.comment(line), ...(port && { port }) });
  let server = await launch(wantedPort);
  registerProcess(server.pid, 'postgres', dataDir);
  const { port, url } = server;
  const controls = {
    url,
    async start() {
      server = await launch(port);
      registerProcess(server.pid, 'postgres', dataDir);
    },
    async stop() {
      signalTree(server.pid, 'SIGCONT');
      await server.stop();
      forgetProcess(server.pid);
    },
    freeze: () => signalTree(server.pid, 'SIGSTOP'),
    thaw: () => signalTree(server.pid, 'SIGCONT'),
    kill: async () => signalTree(server.pid, 'SIGKILL'),
  };
  t.teardown(controls.stop);
  return controls;
}
