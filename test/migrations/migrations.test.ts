import { spawn } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import type { Client } from 'pg';
import t from 'tap';
import type { Test } from 'tap';
import { runMigrate } from '../../src/cli/migrate.ts';
import { findNewestMigration, MIGRATIONS_FOLDER, readMigrationFiles } from '../../src/migrations/files.ts';
import { applyPending, LOCK_ID } from '../../src/migrations/migrations.ts';
import { createDatabaseCheck, readAppliedMigrations } from '../../src/postgres/readiness.ts';
import { startClientPostgres } from '../support/client-postgres.ts';
import { createDatabase, createEmptyDatabase, withClient } from '../support/postgres.ts';
import { programOf } from '../support/service.ts';
import { until } from '../support/until.ts';

// Each has a database of its own, and most of their time is waiting.
t.jobs = 4;

const SHIPPED = readMigrationFiles(MIGRATIONS_FOLDER).map((file) => file.name);
/** Three numbers that are free, in their order. */
const [NEXT = '', LATER = '', LAST = ''] = [1, 2, 3].map((step) =>
  String(Number(SHIPPED.at(-1)?.slice(0, 4) ?? 0) + step).padStart(4, '0'),
);

t.test('up, all the way down and up again gives the same schema, and down leaves nothing', async (t) => {
  const url = await createEmptyDatabase(t);

  await run(url, ['up']);
  const first = await describeSchema(url);
  const down = await run(url, ['down', String(SHIPPED.length)]);
  const empty = await describeSchema(url);
  await run(url, ['up']);

  t.ok(first.length > 40, 'the description sees the schema');
  t.match(down.out, `${SHIPPED.length} reverted.`);
  t.same(empty, []);
  t.same(await describeSchema(url), first);
});

t.test('down reverts the newest migration and status tells what is applied', async (t) => {
  const url = await createEmptyDatabase(t);
  t.equal((await run(url, ['down'])).out, 'Nothing to revert.');
  const virgin = await run(url, ['status', '--json']);
  t.same(statesOf(virgin.out), Object.fromEntries(SHIPPED.map((name) => [name, 'pending'])));
  await run(url, ['up']);

  const down = await run(url, ['down']);

  t.match(down.out, `Reverted ${SHIPPED.at(-1)}`);
  const status = await run(url, ['status']);
  t.equal(status.code, 0);
  const lines = status.out.split('\n');
  t.match(lines.at(-1), new RegExp(`^${SHIPPED.at(-1)} +pending +-$`));
  t.match(lines.at(-2), new RegExp(`^${SHIPPED.at(-2)} +applied +\\d{4}-\\d\\d-\\d\\dT.*Z$`));
  t.equal((await run(url, ['up'])).out.split('\n').at(-1), '1 applied.');
  t.equal((await run(url, ['up'])).out, 'Nothing to apply.');
});

t.test('processes started together apply each migration once, and all of them succeed', async (t) => {
  const url = await createEmptyDatabase(t);

  const results = await Promise.all(Array.from({ length: 5 }, () => runProcess(url, ['up'])));

  t.same(
    results.map(({ code, err }) => ({ code, err })),
    Array.from({ length: 5 }, () => ({ code: 0, err: '' })),
  );
  const applied = results.flatMap(({ out }) =>
    [...out.matchAll(/^Applied (\S+) in/gm)].map((match) => match[1]),
  );
  t.same(
    applied.toSorted((a = '', b = '') => a.localeCompare(b)),
    SHIPPED,
  );
  t.same(statesOf((await run(url, ['status', '--json'])).out), statesFor(SHIPPED, 'applied'));
});

t.test(
  'a process waits for another one that migrates, for a bounded time, unless it has nothing to do',
  async (t) => {
    const url = await createEmptyDatabase(t);
    await withClient(url, async (other) => {
      await other.query('select pg_advisory_lock($1)', [LOCK_ID]);
      const said: string[] = [];

      const refused = withClient(url, (client) =>
        applyPending(client, readMigrationFiles(MIGRATIONS_FOLDER), {
          say: (line) => said.push(line),
          otherMigratorMs: 300,
        }),
      );

      await t.rejects(refused, { message: /^Another process has been migrating this database for 0\.3 s/ });
      t.same(said, ['Another process is migrating this database: waiting for it.']);
      const waiting = run(url, ['up'], { until: /waiting for it/ });
      await waiting.seen;
      await other.query('select pg_advisory_unlock_all()');
      t.equal((await waiting).code, 0);
      await other.query('select pg_advisory_lock($1)', [LOCK_ID]);
      t.equal((await run(url, ['up'])).out, 'Nothing to apply.');
    });
  },
);

t.test('a migration that fails leaves nothing of itself, and says where and why', async (t) => {
  const url = await createEmptyDatabase(t);
  const folder = copyMigrations(t);
  writeMigration(folder, `${NEXT}_good`, 'create table good (id int)', 'drop table good');
  writeMigration(
    folder,
    `${LATER}_bad`,
    `create table half (note text);\ninsert into half\nvalues (no_such)`,
    'select 1',
  );
  writeMigration(folder, `${LAST}_later`, 'create table later (id int)', 'drop table later');

  const up = await run(url, ['up'], { folder });

  t.equal(up.code, 1);
  t.equal(
    up.err,
    `migrations/${LATER}_bad.sql, line 6: column "no_such" does not exist (42703). Nothing of it was kept.`,
  );
  t.same(await tablesOf(url, ['good', 'half', 'later']), ['good']);
  t.match(statesOf((await run(url, ['status', '--json'], { folder })).out), {
    [`${NEXT}_good`]: 'applied',
    [`${LATER}_bad`]: 'pending',
    [`${LAST}_later`]: 'pending',
  });
  writeMigration(folder, `${LATER}_bad`, 'create table half (note text)', 'drop table half');
  t.equal((await run(url, ['up'], { folder })).out.split('\n').at(-1), '2 applied.', 'mended, it goes on');
});

t.test('a migration that cannot be marked as applied is not kept', async (t) => {
  const url = await createEmptyDatabase(t);
  await run(url, ['up']);
  const folder = copyMigrations(t);
  writeMigration(folder, `${NEXT}_kept`, 'create table kept (id int)', 'drop table kept');
  await withClient(url, (client) =>
    client.query(
      `create function refuse() returns trigger language plpgsql as $$ begin raise exception 'disk full'; end $$;
       create trigger refuse before insert on schema_migration for each row execute function refuse()`,
    ),
  );

  const up = await run(url, ['up'], { folder });

  t.equal(up.err, `migrations/${NEXT}_kept.sql: disk full (P0001). Nothing of it was kept.`);
  t.same(await tablesOf(url, ['kept']), []);
  const checksums = await withClient(url, (client) => client.query('select from schema_migration_checksum'));
  t.equal(checksums.rowCount, SHIPPED.length);
});

t.test('a migration whose connection dies half way leaves nothing, not even its checksum', async (t) => {
  const url = await createEmptyDatabase(t);
  const folder = copyMigrations(t);
  writeMigration(
    folder,
    `${NEXT}_slow`,
    'create table half (id int);\nselect pg_sleep(60)',
    'drop table half',
  );

  const migrating = run(url, ['up'], { folder });
  await withClient(url, async (client) => {
    const kill = `select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and application_name = 'migrate' and query like '%pg_sleep%'
        and wait_event = 'PgSleep'`;
    await until('the session is killed', async () => (await client.query(kill)).rowCount === 1);
  });
  const up = await migrating;

  t.equal(up.code, 1);
  t.match(up.err, new RegExp(`^migrations/${NEXT}_slow\\.sql: terminating connection`));
  t.same(await tablesOf(url, ['half']), []);
  const checksums = await withClient(url, (client) =>
    client.query('select from public.schema_migration_checksum where name = $1', [`${NEXT}_slow`]),
  );
  t.equal(checksums.rowCount, 0);
});

t.test(
  'a migration gets its lock in time, tries again, or gives up and says how to find the holder',
  async (t) => {
    const url = await createEmptyDatabase(t);
    await run(url, ['up']);
    const folder = copyMigrations(t);
    writeMigration(
      folder,
      `${NEXT}_alter`,
      'alter table idempotency_record add column note text',
      'select 1',
    );
    await withClient(url, async (holder) => {
      await holder.query('begin; lock table idempotency_record in access share mode');
      const files = readMigrationFiles(folder);

      const refused = withClient(url, (client) =>
        applyPending(client, files, { say: () => undefined, lockTimeoutMs: 100, lockAttempts: 2 }),
      );

      await t.rejects(refused, {
        message: new RegExp(
          `^migrations/${NEXT}_alter\\.sql.*lock timeout \\(55P03\\).*Nothing of it.*pg_stat_activity`,
        ),
      });
      const startedAt = Date.now();
      const patient = run(url, ['up'], { folder, until: /try 1 of 5 ended/ });
      await patient.seen;
      const waitedMs = Date.now() - startedAt;
      t.ok(waitedMs > 1900 && waitedMs < 4000, `a try ends after 2 s (${waitedMs} ms)`);
      await holder.query('commit');
      t.equal((await patient).code, 0);
    });
  },
);

t.test('a statement that runs away is ended', async (t) => {
  const url = await createEmptyDatabase(t);
  const folder = copyMigrations(t);
  writeMigration(
    folder,
    `${NEXT}_timeouts`,
    `create table seen as select current_setting('statement_timeout') as statement, current_setting('lock_timeout') as lock`,
    'drop table seen',
  );

  await run(url, ['up'], { folder });

  const { rows } = await withClient(url, (client) => client.query('select * from seen'));
  t.same(rows, [{ statement: '1min', lock: '2s' }]);
});

t.test('an index is built concurrently while another process waits for its turn', async (t) => {
  const url = await createEmptyDatabase(t);
  const folder = copyMigrations(t);
  writeIndexMigration(folder);

  const results = await Promise.all([run(url, ['up'], { folder }), run(url, ['up'], { folder })]);

  t.same(
    results.map(({ code, err }) => `${code}${err}`),
    ['0', '0'],
  );
  t.equal((await run(url, ['down'], { folder })).code, 0);
});

t.test('an index that is built concurrently outlasts the transactions that it has to wait for', async (t) => {
  const url = await createEmptyDatabase(t);
  await run(url, ['up']);
  const folder = copyMigrations(t);
  writeIndexMigration(folder);
  await withClient(url, async (writer) => {
    await writer.query('begin; update idempotency_record set status = 200');

    const migrating = withClient(url, (client) =>
      applyPending(client, readMigrationFiles(folder), { say: () => undefined, lockTimeoutMs: 100 }),
    );
    const outlasted = `select from pg_stat_activity where datname = current_database()
      and query like '%index concurrently%' and wait_event_type = 'Lock' and now() - query_start > '300 ms'
      and pid <> pg_backend_pid()`;
    await until('it outlasted them', () =>
      withClient(url, async (client) => (await client.query(outlasted)).rowCount === 1),
    );
    await writer.query('commit');

    t.same(await migrating, [`${NEXT}_index`]);
  });
});

t.test('a file that was changed after it was applied is refused, but not for its line ends', async (t) => {
  const url = await createEmptyDatabase(t);
  await run(url, ['up']);
  const folder = copyMigrations(t);
  const path = join(folder, `${SHIPPED[1]}.sql`);
  const original = readFileSync(path, 'utf8');
  writeMigration(folder, `${NEXT}_next`, 'create table next (id int)', 'drop table next');
  writeFileSync(path, original.replaceAll('\n', '\r\n'));
  t.equal((await run(url, ['status', '--json'], { folder })).out.includes('drifted'), false);

  writeFileSync(path, original.replace('in (', "in ('other', "));
  const up = await run(url, ['up'], { folder });

  t.equal(up.code, 1);
  t.match(up.err, `migrations/${SHIPPED[1]}.sql was changed after it was applied.`);
  t.match(up.err, /git log -p .*migrate -- new NAME/);
  t.same(await tablesOf(url, ['next']), [], 'nothing was applied');
  const status = await run(url, ['status', '--json'], { folder });
  t.equal(status.code, 0);
  t.equal(statesOf(status.out)[SHIPPED[1] ?? ''], 'drifted');
});

t.test('a database that is ahead is tolerated by up, status and readiness, and not reverted', async (t) => {
  const url = await createEmptyDatabase(t);
  const newer = copyMigrations(t);
  writeMigration(newer, `${NEXT}_newer`, 'create table newer (id int)', 'drop table newer');
  await run(url, ['up'], { folder: newer });

  const up = await run(url, ['up']);

  t.equal(up.code, 0);
  t.match(up.out, `Warning: the database has migrations that this release does not: ${NEXT}_newer.`);
  t.equal(statesOf((await run(url, ['status', '--json'])).out)[`${NEXT}_newer`], 'unknown');
  const down = await run(url, ['down']);
  t.equal(down.code, 1);
  t.match(down.err, `${NEXT}_newer was applied by another release`);
  await withClient(url, async (client) => {
    t.equal((await readAppliedMigrations(txOf(client))).at(-1), `${NEXT}_newer`);
    await createDatabaseCheck({ checks: txOf(client) }, findNewestMigration())();
  });
});

t.test('the schema is not ready before its newest migration is applied', async (t) => {
  const url = await createEmptyDatabase(t);
  await withClient(url, async (client) => {
    const check = createDatabaseCheck({ checks: txOf(client) }, findNewestMigration());
    const lacks = { message: `the schema lacks migration ${SHIPPED.at(-1)}: run "npm run migrate -- up"` };
    await t.rejects(check(), lacks);
    await run(url, ['up']);
    await run(url, ['down']);

    t.same(await readAppliedMigrations(txOf(client)), SHIPPED.slice(0, -1));
    await t.rejects(check(), lacks);
  });
});

t.test('a migration below the newest applied one is refused, and so is a broken folder', async (t) => {
  const url = await createEmptyDatabase(t);
  const folder = copyMigrations(t);
  writeMigration(folder, `${LATER}_later`, 'create table later (id int)', 'drop table later');
  await run(url, ['up'], { folder });
  writeMigration(folder, `${NEXT}_between`, 'create table between_ (id int)', 'drop table between_');

  const late = await run(url, ['up'], { folder });

  t.equal(late.code, 1);
  t.match(
    late.err,
    new RegExp(`${NEXT}_between\\.sql is not applied, but ${LATER}_later already is.*number above ${LATER}`),
  );
  t.equal(
    statesOf((await run(url, ['status', '--json'], { folder })).out)[`${NEXT}_between`],
    'out-of-order',
  );
  const broken: [name: string, content: string, message: RegExp][] = [
    [`${LATER}_twin.sql`, '-- Up Migration\n-- Down Migration\n', /have the same number/],
    ['7_short.sql', '', /a name looks like/],
    [`${LAST}_no_down.sql`, '-- Up Migration\nselect 1;\n', /"-- Down Migration" must be there exactly once/],
    [`${LAST}_swapped.sql`, '-- Down Migration\n-- Up Migration\n', /"-- Up Migration" comes first/],
  ];
  for (const [name, content, message] of broken) {
    writeFileSync(join(folder, name), content);
    const up = await run(url, ['up'], { folder });
    t.equal(up.code, 1, name);
    t.match(up.err, message);
    rmSync(join(folder, name));
  }
});

t.test('new writes the next numbered file, which can be applied and reverted as it is', async (t) => {
  const url = await createEmptyDatabase(t);
  const folder = copyMigrations(t);

  const made = await run(url, ['new', 'add_customer'], { folder });

  t.equal(made.code, 0);
  t.equal(made.out, join(folder, `${NEXT}_add_customer.sql`));
  t.equal((await run(url, ['up'], { folder })).code, 0);
  t.equal((await run(url, ['down'], { folder })).code, 0);
  const before = readdirSync(folder);
  for (const name of ['', 'Add', 'add-customer', '../up', '1st', 'a b', `a'b`, 'x'.repeat(61)]) {
    const refused = await run(url, ['new', name], { folder });
    t.equal(refused.code, 1, `"${name}" is refused`);
    t.match(refused.err, 'lower case letters');
  }
  t.same(readdirSync(folder), before);
});

t.test('a database that cannot be had is one line, exit 1, and no password', async (t) => {
  const url = await createEmptyDatabase(t);
  const change = (part: Partial<URL>): string =>
    Object.assign(new URL(url), { password: 's3cret-pw', ...part }).href;
  const cases: [what: string, env: NodeJS.ProcessEnv, message: RegExp][] = [
    ['nothing set', {}, /^Neither DATABASE_MIGRATION_URL nor DATABASE_URL is set\.$/],
    ['no URL', { DATABASE_URL: 's3cret-pw' }, /^DATABASE_URL has the wrong scheme; allowed: postgres:\/\//],
    ['another scheme', { DATABASE_URL: 'mysql://u:s3cret-pw@h/d' }, /has the wrong scheme/],
    ['a password that is not encoded', { DATABASE_URL: 'postgres://u:1/s3cret-pw@h/d' }, /write special/],
    ['a wrong password', { DATABASE_URL: change({}) }, /refused: password authentication failed for user/],
    ['no such database', { DATABASE_URL: url.replace(/[^/]+$/, 'nowhere') }, /"nowhere" does not exist$/],
    ['nobody listens', { DATABASE_URL: change({ host: '127.0.0.1:1' }) }, /127\.0\.0\.1:1\/.*ECONNREFUSED/],
    [
      'a secret file that is missing',
      { DATABASE_URL_FILE: '/nowhere/url' },
      /^DATABASE_URL cannot be read from DATABASE_URL_FILE: \/nowhere\/url cannot be read \(ENOENT\)/,
    ],
    ['a secret given twice', { DATABASE_URL: url, DATABASE_URL_FILE: '/x' }, /is set twice/],
  ];
  for (const [what, env, message] of cases) {
    const up = await run(url, ['up', '--wait', '0'], { env });

    t.equal(up.code, 1, what);
    t.match(up.err, message);
    t.equal(up.err.split('\n').length, 1, 'one line');
    t.notMatch(up.out + up.err, 's3cret');
  }
  const file = join(t.testdir({ url: `\uFEFF${url} \r\n\n` }), 'url');
  const env = { DATABASE_URL: 'postgres://wrong', DATABASE_MIGRATION_URL_FILE: file };
  t.equal((await run(url, ['status'], { env })).code, 0, 'the URL for migrations goes first, also as a file');
  t.equal((await run(url, ['status'], { env: { DATABASE_URL: `${url} ` } })).code, 0);
  // Which the service accepts: the socket's folder in place of a host.
  const { socketDir, password, port } = (await startClientPostgres(t)) ?? {};
  const socket = `postgres://migrator:${password}@/hardpoint?host=${socketDir}&port=${port}`;
  if (socketDir) t.equal((await run(url, ['status'], { env: { DATABASE_URL: socket } })).err, '');
});

t.test(
  'who only waits changes nothing, and goes on when another process has applied everything',
  async (t) => {
    const url = await createEmptyDatabase(t);
    const late = await run(url, ['wait', '--wait', '0']);
    t.equal(late.code, 1);
    t.equal(late.err, `After 0 s not applied: ${SHIPPED.join(', ')}.`);
    t.same(await describeSchema(url), []);

    const waiting = run(url, ['wait', '--wait', '60']);
    t.equal((await run(url, ['up'])).code, 0);
    t.match(await waiting, { code: 0, out: /Everything is applied\.$/ });
    t.equal((await run(url, ['wait'])).out, 'Everything is applied.');
  },
);

t.test('a mistyped command changes nothing and explains itself', async (t) => {
  const url = await createEmptyDatabase(t);
  for (const argv of [[], ['upp'], ['up', 'now'], ['new'], ['down', '1', '2']]) {
    const result = await run(url, argv);
    t.equal(result.code, 1, argv.join(' '));
    t.match(result.err, /^Usage: /);
  }
  t.equal((await run(url, ['down', '0'])).out, 'Nothing to revert.');
  t.match((await run(url, ['down', 'all'])).err, 'down takes a whole number, not "all".');
  t.match((await run(url, ['up', '--wait', 'long'])).err, '--wait takes a whole number');
  t.match((await run(url, ['up', '--force'])).err, "Unknown option '--force'");
  t.same(await describeSchema(url), []);
  t.equal((await runProcess(url, ['--help'])).code, 0);
});

t.test('up waits for a server that is still starting', async (t) => {
  const url = new URL(await createEmptyDatabase(t));
  const upstream = { host: url.hostname, port: Number(url.port) };
  const relay = createServer((socket) => {
    const server = connect(upstream);
    socket.on('error', () => server.destroy());
    server.on('error', () => socket.destroy());
    socket.pipe(server).pipe(socket);
  });
  relay.listen(0, '127.0.0.1');
  await once(relay, 'listening');
  const address = relay.address();
  const port = typeof address === 'object' ? address?.port : undefined;
  relay.close();
  await once(relay, 'close');
  url.host = `127.0.0.1:${port}`;

  const up = run(url.href, ['up'], { until: /^Waiting for Postgres at 127\.0\.0\.1:\d+\/test_\w+: / });
  await up.seen;
  relay.listen(port, '127.0.0.1');
  const { code } = await up;
  relay.close();

  t.equal(code, 0);
});

t.test('the audit log refuses to be changed, by its owner too and with triggers switched off', async (t) => {
  const url = await createDatabase(t);
  await withClient(url, async (client) => {
    await client.query(
      `insert into audit_event (id, tenant, actor, action, object, outcome)
       values (gen_random_uuid(), 'acme', 'command:api-key', 'api_key.created', 'k1', 'success')`,
    );
    for (const role of ['origin', 'replica']) {
      await client.query(`set session_replication_role = ${role}`);
      for (const statement of [
        `update audit_event set outcome = 'denied'`,
        'delete from audit_event',
        'delete from audit_event where false',
        'truncate audit_event',
      ]) {
        await t.rejects(
          client.query(statement),
          { code: '42501', message: /append-only/ },
          `${role}: ${statement}`,
        );
      }
    }
    const { rows } = await client.query('select outcome from audit_event');
    t.same(rows, [{ outcome: 'success' }]);
  });
});

/** A row that each table takes, and changes of it that make no sense; values as SQL. */
const ROWS: { table: string; row: Record<string, string>; bad: Record<string, string>[] }[] = [
  {
    table: 'api_key',
    row: {
      id: `'k1'`,
      tenant: `'acme'`,
      name: `'export'`,
      scopes: `'{}'`,
      digest: `sha256('')`,
      hint: `'abcd'`,
    },
    bad: [
      { id: `''` },
      { id: `'k-1'` },
      { tenant: `'Acme'` },
      { tenant: `''` },
      { name: `repeat('x', 101)` },
      { digest: `'short'` },
      { hint: `'abcde'` },
      { limit_per_minute: '0' },
    ],
  },
  {
    table: 'idempotency_record',
    row: {
      tenant: `'acme'`,
      key: `'k1'`,
      fingerprint: `''`,
      status: '201',
      headers: `'{}'`,
      body: `''`,
      expires_at: 'now()',
    },
    bad: [
      { tenant: `'Acme'` },
      { key: `''` },
      { key: `repeat('k', 256)` },
      { status: '42' },
      { headers: `'[]'` },
    ],
  },
  // example:start
  {
    table: 'orders',
    row: {
      id: 'gen_random_uuid()',
      tenant: `'acme'`,
      reference: `'r1'`,
      status: `'pending'`,
      currency: `'EUR'`,
      total_minor: '100',
      items: `'[{}]'`,
    },
    bad: [
      { tenant: `'Acme'` },
      { tenant: `''` },
      { reference: `''` },
      { status: `'lost'` },
      { currency: `'eur'` },
      { total_minor: '-1' },
      { total_minor: '1000000000001' },
      { items: `'[]'` },
      { items: `'{}'` },
    ],
  },
  // example:end
];

t.test('the database itself refuses rows that make no sense', async (t) => {
  const url = await createDatabase(t);
  const insert = (table: string, row: Record<string, string>): string =>
    `insert into ${table} (${Object.keys(row).join()}) values (${Object.values(row).join()})`;
  await withClient(url, async (client) => {
    for (const { table, row, bad } of ROWS) {
      for (const change of bad) {
        const what = `${table} ${JSON.stringify(change)}`;
        await t.rejects(client.query(insert(table, { ...row, ...change })), { code: '23514' }, what);
      }
      await client.query(insert(table, row));
      await t.rejects(client.query(insert(table, row)), { code: '23505' }, `${table} twice`);
    }
    // example:start
    const { table, row } = ROWS.find((each) => each.table === 'orders')!;
    await client.query(insert(table, { ...row, tenant: `'other'` }));
    await t.rejects(client.query(insert(table, row)), {
      code: '23505',
      constraint: 'orders_tenant_reference_key',
    });
    // example:end
  });
});

/** The statements that the indexes exist for; $n as the repositories send them. */
const QUERIES: { table: string; index: string; types: string; values: string; text: string }[] = [
  // example:start
  {
    table: 'orders',
    index: 'orders_pkey',
    types: 'text, uuid',
    values: `'t3', (select id from orders where tenant = 't3' limit 1)`,
    text: 'select * from orders where tenant = $1 and id = $2',
  },
  {
    table: 'orders',
    index: 'orders_pkey',
    types: 'text, int',
    values: `'t3', 21`,
    text: 'select * from orders where tenant = $1 order by id desc limit $2',
  },
  {
    table: 'orders',
    index: 'orders_pkey',
    types: 'text, uuid, int',
    values: `'t3', (select id from orders where tenant = 't3' order by id offset 900 limit 1), 21`,
    text: 'select * from orders where tenant = $1 and id < $2 order by id desc limit $3',
  },
  {
    table: 'orders',
    index: 'orders_tenant_status_newest',
    types: 'text, text, uuid, int',
    values: `'t3', 'cancelled', (select id from orders where tenant = 't3' order by id offset 900 limit 1), 21`,
    text: 'select * from orders where tenant = $1 and status = $2 and id < $3 order by id desc limit $4',
  },
  {
    table: 'orders',
    index: 'orders_tenant_created_at',
    types: 'text, timestamptz, timestamptz, int',
    values: `'t3', '2026-03-01Z', '2026-03-08Z', 21`,
    text: `select * from orders where tenant = $1 and created_at >= $2 and created_at < $3
      order by id desc limit $4`,
  },
  {
    table: 'orders',
    index: 'orders_tenant_created_at',
    types: 'text, timestamptz, timestamptz',
    values: `'t3', '2026-03-01Z', '2026-04-01Z'`,
    text: `select date_trunc('day', created_at at time zone 'utc'), status, currency, count(*), sum(total_minor)
      from orders where tenant = $1 and created_at >= $2 and created_at < $3
      group by date_trunc('day', created_at at time zone 'utc'), status, currency`,
  },
  // example:end
  {
    table: 'api_key',
    index: 'api_key_tenant_newest',
    types: 'text, timestamptz, text, int',
    values: `'t3', '2026-06-01Z', 'k', 21`,
    text: `select * from api_key where tenant = $1 and (created_at, id) < ($2, $3)
      order by created_at desc, id desc limit $4`,
  },
  {
    table: 'audit_event',
    index: 'audit_event_pkey',
    types: 'text, uuid, int',
    values: `'t3', (select id from audit_event where tenant = 't3' order by id offset 400 limit 1), 21`,
    text: 'select * from audit_event where tenant = $1 and id < $2 order by id desc limit $3',
  },
  {
    table: 'idempotency_record',
    index: 'idempotency_record_pkey',
    types: 'text, text',
    values: `'t3', 'key-23'`,
    text: 'select * from idempotency_record where tenant = $1 and key = $2',
  },
  {
    table: 'idempotency_record',
    index: 'idempotency_record_expires_at',
    types: 'timestamptz, int',
    values: `'2026-01-02Z', 1000`,
    text: 'select tenant, key from idempotency_record where expires_at < $1 order by expires_at limit $2',
  },
];

t.test('every index serves a query, with a plan for the values and with one for all values', async (t) => {
  const url = await createDatabase(t);
  await withClient(url, async (client) => {
    await seed(client);
    for (const mode of ['force_custom_plan', 'force_generic_plan']) {
      await client.query(`set plan_cache_mode = ${mode}`);
      for (const { table, index, types, values, text: statement } of QUERIES) {
        const given = await client.query<unknown[]>({ text: `select ${values}`, rowMode: 'array' });
        const literals = given.rows
          .flat()
          .map((value) => client.escapeLiteral(value instanceof Date ? value.toISOString() : String(value)));
        await client.query(`prepare probe (${types}) as ${statement}`);
        const { rows } = await client.query(`explain (format json) execute probe (${literals.join()})`);
        await client.query('deallocate probe');

        const plan = JSON.stringify(rows[0]);
        t.match(plan, `"Index Name":"${index}"`, `${mode}: ${statement}`);
        t.notMatch(plan, `"Node Type":"Seq Scan"`, `${table} is not read whole`);
        if (statement.includes('tenant = $1'))
          t.match(plan, /"Index Cond":"\(+tenant = /, 'and one tenant only');
      }
    }
    const { rows: indexes } = await client.query<{ name: string }>(
      `select indexrelid::regclass::text as name from pg_index
       where indrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace)
         and not indisunique and indisvalid
       order by 1`,
    );
    const served = new Set(QUERIES.map((query) => query.index));
    t.same(
      indexes.map(({ name }) => name).filter((name) => !served.has(name)),
      [],
      'no index without a query',
    );
  });
});

/** 20 tenants over 200 days. */
async function seed(client: Client): Promise<void> {
  const at = `'2026-01-01Z'::timestamptz + n * interval '345 seconds'`;
  await client.query(`
    -- example:start
    -- One order in fifty is cancelled.
    insert into orders (id, tenant, reference, status, currency, total_minor, items, created_at)
    select ${uuidv7(at, 'n')}, 't' || n % 20, 'r' || n,
      case when n / 20 % 50 = 0 then 'cancelled' else (array['pending', 'paid', 'shipped', 'delivered'])[1 + n / 20 % 4] end,
      (array['EUR', 'USD', 'CHF'])[1 + n % 3], n, '[{}]', ${at}
    from generate_series(1, 50000) n;
    -- example:end
    insert into api_key (id, tenant, name, scopes, digest, hint, created_at)
    select 'k' || n, 't' || n % 20, 'key', '{}', sha256(n::text::bytea), 'abcd', ${at}
    from generate_series(1, 10000) n;
    insert into audit_event (id, tenant, actor, action, object, outcome, occurred_at)
    select ${uuidv7(at, 'n')}, 't' || n % 20, 'k1', 'api_key.created', 'k', 'success', ${at}
    from generate_series(1, 20000) n;
    insert into idempotency_record (tenant, key, fingerprint, status, headers, body, expires_at)
    select 't' || n % 20, 'key-' || n, '', 201, '{}', '', ${at}
    from generate_series(1, 20000) n;
    analyze;`);
}

interface Result {
  code: number;
  out: string;
  err: string;
}

interface Run extends Promise<Result> {
  /** Resolves when a line of progress matches `until`, or when the command ends without one. */
  seen: Promise<unknown>;
}

/** The command within this process. */
function run(
  databaseUrl: string,
  argv: string[],
  options: { env?: NodeJS.ProcessEnv; folder?: string; until?: RegExp } = {},
): Run {
  const { env = { DATABASE_URL: databaseUrl }, folder = MIGRATIONS_FOLDER } = options;
  const out: string[] = [];
  const err: string[] = [];
  const progress = new EventEmitter();
  const push = (lines: string[]) => (line: string) => {
    lines.push(line);
    if (options.until?.test(line) === true) progress.emit('seen');
  };
  const result = runMigrate(argv, { env, folder, out: push(out), err: push(err) });
  return Object.assign(
    result.then((code) => ({ code, out: out.join('\n'), err: err.join('\n') })),
    { seen: Promise.race([once(progress, 'seen'), result]) },
  );
}

/** The command as people start it, but from another folder. */
async function runProcess(databaseUrl: string, argv: string[]): Promise<Result> {
  const child = spawn(process.execPath, [...programOf('cli/migrate'), ...argv], {
    cwd: '/',
    env: { PATH: process.env['PATH'], DATABASE_URL: databaseUrl },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const [out, err, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ]);
  return { code: Number(code), out, err };
}

function copyMigrations(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'migrations-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  cpSync(MIGRATIONS_FOLDER, folder, { recursive: true });
  return folder;
}

function writeMigration(folder: string, name: string, up: string, down: string): void {
  writeFileSync(
    join(folder, `${name}.sql`),
    `-- Why.\n\n-- Up Migration\n${up};\n\n-- Down Migration\n${down};\n`,
  );
}

function writeIndexMigration(folder: string): void {
  const marker = 'Migration (no transaction)';
  const create = 'create index concurrently idempotency_record_status on idempotency_record (status)';
  const drop = 'drop index concurrently idempotency_record_status';
  writeFileSync(
    join(folder, `${NEXT}_index.sql`),
    `-- Up ${marker}\n${create};\n\n-- Down ${marker}\n${drop};\n`,
  );
}

function statesOf(json: string): Record<string, string> {
  const { migrations }: { migrations: { name: string; state: string }[] } = JSON.parse(json);
  return Object.fromEntries(migrations.map(({ name, state }) => [name, state]));
}

function statesFor(names: string[], state: string): Record<string, string> {
  return Object.fromEntries(names.map((name) => [name, state]));
}

async function tablesOf(url: string, names: string[]): Promise<string[]> {
  const { rows } = await withClient(url, (client) =>
    client.query<{ name: string }>(
      `select relname as name from pg_class where relname = any($1) and relkind = 'r' order by 1`,
      [names],
    ),
  );
  return rows.map(({ name }) => name);
}

/** Every column, constraint, index, trigger and function as Postgres prints it, without our bookkeeping. */
async function describeSchema(url: string): Promise<string[]> {
  const { rows } = await withClient(url, (client) =>
    client.query<{ line: string }>(
      `with relation as (
         select oid from pg_class
         where relnamespace = 'public'::regnamespace and relname not like 'schema_migration%'
       )
       select format('%s.%s %s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod),
         attnotnull, pg_get_expr(adbin, adrelid)) as line
       from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
       where attrelid in (table relation) and attnum > 0 and not attisdropped
       union all
       select format('%s %s', conname, pg_get_constraintdef(oid)) from pg_constraint
       where conrelid in (table relation)
       union all
       select pg_get_indexdef(indexrelid) from pg_index where indrelid in (table relation)
       union all
       select format('%s %s', tgenabled, pg_get_triggerdef(oid)) from pg_trigger
       where tgrelid in (table relation) and not tgisinternal
       union all
       select format('%s %s', oid::regclass, reloptions) from pg_class where oid in (table relation)
       union all
       select pg_get_functiondef(oid) from pg_proc where pronamespace = 'public'::regnamespace
       order by 1`,
    ),
  );
  return rows.map(({ line }) => line);
}

function txOf(client: Client) {
  return {
    async query<Row extends object>(query: {
      name: string;
      text: string;
      values?: unknown[];
    }): Promise<Row[]> {
      return (await client.query<Row>(query)).rows;
    },
  };
}

/** SQL for a UUIDv7 of the time `at`, made unique by `n`. */
function uuidv7(at: string, n: string): string {
  return `(lpad(to_hex((extract(epoch from ${at}) * 1000)::bigint), 12, '0') || '7000a' || lpad(to_hex(${n}), 15, '0'))::uuid`;
}
