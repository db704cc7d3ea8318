import {
  appendFileSync,
  copyFileSync,
  existsSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { Client } from 'pg';
import t, { type Test } from 'tap';
import {
  databases,
  flipByte,
  LOCAL_DOCKER,
  nameOf,
  openWorld,
  scripts,
  sumAgain,
  superuser,
} from '../support/backup-world.ts';
import { startClientPostgres, type ClientPostgres } from '../support/client-postgres.ts';
import { withClient } from '../support/postgres.ts';
import { runScript, startScript, temporaryFolder } from '../support/scripts.ts';
import { repositoryDir } from '../support/servers.ts';
import { requireTool } from '../support/tools.ts';
import { until } from '../support/until.ts';

const ROWS = 4000;

t.test('backups, with a real server', async (t) => {
  const postgres = await startClientPostgres(t);
  if (!postgres) return;
  await withClient(superuser(postgres), (client) =>
    client.query(`
      set role migrator;
      create table ledger (id int primary key, note text);
      insert into ledger select n, md5(n::text) || md5((-n)::text) from generate_series(1, ${ROWS}) n`),
  );

  const there = temporaryFolder(t);
  const shared = openWorld(t, postgres, {}, { BACKUP_COPY_COMMAND: `cp -t ${there}` });

  await t.test('A backup counts only after it was restored.', async (t) => {
    const { code, stderr } = await shared.run('run');
    t.equal(code, 0, stderr);
    const name = nameOf(shared);
    t.match(name, /^\d{8}T\d{6}Z$/);
    t.same(shared.files().toSorted(), [`${name}.dump`, `${name}.facts`, `${name}.sha256`]);
    for (const file of shared.files())
      t.equal(statSync(join(shared.backups, file)).mode & 0o077, 0, `${file} is private`);
    const facts = readFileSync(join(shared.backups, `${name}.facts`), 'utf8');
    t.match(facts, new RegExp(`^schema 0\\d+[^]*public\\.ledger ${ROWS}$`, 'm'));
    t.match(stderr, /restored and compared/);
    t.equal((await shared.run('list')).stdout, `${name}\n`);
    t.same(readdirSync(there).toSorted(), shared.files().toSorted(), 'and copied');
    t.equal((await shared.run('check', join(shared.backups, `${name}.dump`))).code, 0);
    t.notOk((await databases(postgres)).some((database) => database.includes('restore_test')));

    const metrics = readFileSync(shared.metricsFile, 'utf8');
    for (const metric of ['backup_last_success', 'backup_restore_test_last_success']) {
      const seconds = Number(new RegExp(`^${metric}_timestamp_seconds (\\d+)$`, 'm').exec(metrics)?.[1]);
      t.ok(Math.abs(Date.now() / 1000 - seconds) < 60, metric);
    }
    t.equal(statSync(shared.metricsFile).mode & 0o777, 0o644, 'another user reads it');
    const promtool = requireTool(t, 'promtool');
    if (!promtool) return;
    const lint = spawnSync(promtool, ['check', 'metrics'], { input: metrics, encoding: 'utf8' });
    t.equal(lint.status, 0, lint.stderr);
  });

  await t.test('its password stands in no environment', async (t) => {
    const shown = join(temporaryFolder(t), 'environment');
    const w = openWorld(t, postgres, { pg_dump: `env >${shown}\nexec "$REAL/pg_dump" "$@"` });
    t.equal((await w.run('run')).code, 0);
    const environment = readFileSync(shown, 'utf8');
    t.match(environment, 'PGPASSFILE=');
    t.notOk(environment.includes(postgres.password));
    const [, passfile = ''] = /^PGPASSFILE=(.*)$/m.exec(environment) ?? [];
    t.notOk(existsSync(passfile), 'and its file is gone');
  });

  const DUMP_FAULTS: Record<string, { program: string; says: RegExp }> = {
    'is cut short': { program: '"$REAL/pg_dump" "$@" | head -c 9000', says: /pg_restore: error/ },
    'has a flipped byte': {
      program: `"$REAL/pg_dump" "$@" >"$BACKUP_DIR/.partial-raw"
        at=$(($(stat -c %s "$BACKUP_DIR/.partial-raw") * 3 / 5))
        head -c $at "$BACKUP_DIR/.partial-raw"
        tail -c +$((at + 1)) "$BACKUP_DIR/.partial-raw" | head -c 1 | tr '\\000-\\377' '\\001-\\377\\000'
        tail -c +$((at + 2)) "$BACKUP_DIR/.partial-raw"`,
      says: /pg_restore: error/,
    },
    'lacks the rows of a table': {
      program: 'exec "$REAL/pg_dump" --exclude-table-data=ledger "$@"',
      says: new RegExp(`public.ledger ${ROWS}\\n---\\n> public.ledger 0`),
    },
    'breaks off half way': {
      program: '"$REAL/pg_dump" "$@" | head -c 9000; exit 1',
      says: /the dump failed/,
    },
  };
  for (const [fault, { program, says }] of Object.entries(DUMP_FAULTS)) {
    await t.test(`a dump that ${fault} leaves nothing that looks like a backup`, async (t) => {
      const w = openWorld(t, postgres, { pg_dump: program });
      const { code, stderr } = await w.run('run');
      t.equal(code, 1);
      t.match(stderr, says);
      t.match(stderr, /does not count|no backup was written/);
      t.same(w.files(), []);
      t.notOk(existsSync(w.metricsFile), 'no success is reported');
      t.notOk((await databases(postgres)).some((database) => database.includes('restore_test')));
    });
  }

  await t.test('a server that is away, a wrong password and wrong settings are named', async (t) => {
    const CASES: [Record<string, string>, RegExp][] = [
      [{ PGPORT: '1' }, /Connection refused[^]*cannot read the database hardpoint/],
      [{ PASSWORD_FILE: '/dev/null' }, /error: the secret in \/dev\/null is empty; write the secret/],
      [{ BACKUP_KEEP_WEEKLY: 'many' }, /BACKUP_KEEP_WEEKLY=many must be a whole number/],
    ];
    for (const [changes, says] of CASES) {
      const w = openWorld(t, postgres, {}, changes);
      const { code, stderr } = await w.run('run');
      t.equal(code, 1);
      t.match(stderr, says);
      t.same(w.files(), []);
    }
    const w = openWorld(t, postgres, {}, { BACKUP_AT: '26:00' });
    t.match(await w.run('schedule'), { code: 1, stderr: /BACKUP_AT=26:00 must be a time/ });
    for (const args of [[], ['run', 'now'], ['check'], ['thin', '--all'], ['restore']])
      t.match(await w.run(...args), { code: 2, stderr: /backup\.sh run/ }, args.join(' '));
  });

  await t.test('what was damaged later, or never was whole, is refused by name', async (t) => {
    const name = nameOf(shared);
    const file = join(shared.backups, `${name}.dump`);
    const good = temporaryFolder(t);
    for (const each of shared.files()) copyFileSync(join(shared.backups, each), join(good, each));
    const damaged = new RegExp(`${name}.dump is damaged`);
    const CASES: [string, () => void, RegExp][] = [
      ['cut', () => writeFileSync(file, readFileSync(file).subarray(0, 9000)), damaged],
      ['a flipped byte', () => flipByte(file, 0.6), damaged],
      ['other facts', () => appendFileSync(join(shared.backups, `${name}.facts`), ' '), damaged],
      ['no sum', () => rmSync(join(shared.backups, `${name}.sha256`)), damaged],
      ['gone', () => rmSync(file), /there is no backup/],
    ];
    for (const [what, damage, says] of CASES) {
      damage();
      t.match(await shared.run('check', file), { code: 1, stderr: says }, what);
      t.match(
        await shared.run('cat', name),
        { code: 1, stdout: '', stderr: says.source.includes('damaged') ? says : /./ },
        what,
      );
      for (const each of readdirSync(good)) copyFileSync(join(good, each), join(shared.backups, each));
    }
    const facts = join(shared.backups, `${name}.facts`);
    writeFileSync(facts, readFileSync(facts, 'utf8').replace(`ledger ${ROWS}`, `ledger ${ROWS + 1}`));
    sumAgain(shared, name);
    t.match(await shared.run('check', file), {
      code: 1,
      stderr: /ledger 4001\n---\n> public.ledger 4000[^]*does not count/,
    });
    for (const each of readdirSync(good)) copyFileSync(join(good, each), join(shared.backups, each));
  });

  await t.test('two at once, and one that was killed', async (t) => {
    const w = openWorld(t, postgres, {
      pg_dump:
        'touch "$BACKUP_DIR/../waiting"\nuntil [ -e "$BACKUP_DIR/../go" ]; do sleep 0.02; done\nexec "$REAL/pg_dump" "$@"',
    });
    const [waiting, go] = [join(w.backups, '../waiting'), join(w.backups, '../go')];
    const killed = startScript(t, join(scripts, 'backup.sh'), ['run'], w.env);
    await until('it dumps', () => existsSync(waiting));
    killed.signal('SIGKILL');
    t.equal((await killed.result).code, 'SIGKILL');
    t.equal((await w.run('list')).stdout, '');
    rmSync(waiting);

    const first = startScript(t, join(scripts, 'backup.sh'), ['run'], w.env);
    await until('it dumps', () => existsSync(waiting));
    t.match(await w.run('run'), { code: 3, stderr: /another backup is running/ });
    writeFileSync(go, '');
    t.equal((await first.result).code, 0);
    t.same(w.files().length, 3, 'and nothing of the killed one is left');
  });

  await t.test('autovacuum in the scratch database fails no backup', async (t) => {
    const AUTOVACUUM = [
      'naptime = 1',
      'vacuum_cost_delay = 100',
      'vacuum_cost_limit = 1',
      'vacuum_insert_threshold = 1',
    ];
    const tell = async (statements: string[]) =>
      withClient(superuser(postgres), async (client) => {
        for (const each of [...statements, 'select pg_reload_conf()']) await client.query(each);
      });
    await tell(AUTOVACUUM.map((setting) => `alter system set autovacuum_${setting}`));
    t.teardown(() =>
      tell(AUTOVACUUM.map((setting) => `alter system reset autovacuum_${setting.split(' ')[0]}`)),
    );
    const waits = `
case "$*" in
  *'create database'*) touch "$BACKUP_DIR/../made" ;;
  *'drop database'*)
    [ -e "$BACKUP_DIR/../made" ] || exec "$REAL/psql" "$@"
    for _ in $(seq 600); do
      found=$("$REAL/psql" -XqAt -h "$SOCKET" -U postgres -c "select count(*) from pg_stat_activity
        where backend_type = 'autovacuum worker' and datname = 'hardpoint_restore_test'")
      [ "$found" = 0 ] || { touch "$BACKUP_DIR/../met"; break; }
      sleep 0.05
    done ;;
esac
exec "$REAL/psql" "$@"`;
    const w = openWorld(t, postgres, { psql: waits }, { SOCKET: postgres.socketDir });
    const { code, stderr } = await w.run('run');
    t.equal(code, 0, stderr);
    t.ok(existsSync(join(w.backups, '../met')), 'it was there');
    t.notOk((await databases(postgres)).some((database) => database.includes('restore_test')));
  });

  await t.test('a copy that fails is a backup that failed', async (t) => {
    const failing = openWorld(t, postgres, {}, { BACKUP_COPY_COMMAND: 'cp -t /nowhere' });
    t.match(await failing.run('run'), { code: 1, stderr: /Z is good, but its copy failed: cp -t \/nowhere/ });
    t.notOk(existsSync(failing.metricsFile), 'no success is reported');
    t.equal((await failing.run('list')).stdout, `${nameOf(failing)}\n`, 'it is good nevertheless');
  });

  await t.test('on a schedule, until it is told to stop', async (t) => {
    const at = new Date(Date.now() + 2000).toISOString().slice(11, 19);
    const w = openWorld(t, postgres, {}, { BACKUP_AT: at });
    const schedule = startScript(t, join(scripts, 'backup.sh'), ['schedule'], w.env);
    await until('a backup', () => nameOf(w) !== '' && existsSync(w.metricsFile), 15_000);
    schedule.signal('SIGTERM');
    t.match(await schedule.result, { code: 0, stderr: /next backup at .*T\d\d:\d\d:\d\dZ/ });
  });

  await t.test('the drill tells RTO and RPO', async (t) => {
    const drill = (changes: Record<string, string> = {}, args: string[] = []) =>
      runScript(t, join(scripts, 'restore-drill.sh'), args, { ...shared.env, ...changes });
    t.match(await drill({ BACKUP_DIR: join(there, 'none') }), { code: 1, stderr: /there is no backup/ });
    const name = nameOf(shared);
    t.match(await drill(), {
      code: 0,
      stdout: /^backup \S+\nRTO \d\.\d{3} s, goal 3600 s: met\nRPO \d+\.000 s, goal 86400 s: met\n$/,
    });
    t.match(await drill({ RTO_GOAL_SECONDS: '0' }), { code: 1, stdout: /RTO .*: MISSED\nRPO .*: met/ });
    const old = '20200101T000000Z';
    for (const each of shared.files())
      renameSync(join(shared.backups, each), join(shared.backups, each.replace(name, old)));
    sumAgain(shared, old);
    t.match(await drill(), { code: 1, stdout: /RTO .*: met\nRPO \d{9}\.000 s.*: MISSED/ });
    flipByte(join(shared.backups, `${old}.dump`), 0.5);
    t.match(await drill(), { code: 1, stderr: /is damaged/ });
    t.match(await drill({ RPO_GOAL_SECONDS: 'a day' }), { code: 1, stderr: /must be a number of seconds/ });
    t.match(await drill({}, ['now']), { code: 2, stderr: /Exit codes/ });
  });

  await t.test('restore', (t) => restoring(t, postgres));
});

async function restoring(t: Test, postgres: ClientPostgres): Promise<void> {
  const w = openWorld(t, postgres, { docker: LOCAL_DOCKER });
  t.equal((await w.run('run')).code, 0);
  const name = nameOf(w);
  const log = join(w.backups, '../docker.log');
  const restore = (args: string[], fault = '', { env } = w) => {
    rmSync(log, { force: true });
    const told = { FAULT: fault, DOCKER_LOG: log, REPOSITORY: repositoryDir, SOCKET: postgres.socketDir };
    return runScript(t, join(scripts, 'restore.sh'), args, { ...env, ...told });
  };
  const calls = () => readFileSync(log, 'utf8');
  const count = async () =>
    withClient(superuser(postgres), async (client) => {
      const { rows } = await client.query<{ n: number }>('select count(*)::int as n from ledger');
      return rows[0]?.n;
    });
  const change = (sql: string) => withClient(superuser(postgres), (client) => client.query(sql));
  await change(`insert into ledger values (0, 'after the backup')`);
  const before = await databases(postgres);

  await t.test('wrong use, wrong names and a database that holds rows are refused', async (t) => {
    for (const args of [[], ['--now'], [name, '--all'], [name, '--force', 'x'], ['--list', 'x']])
      t.match(await restore(args), { code: 2, stderr: /restore\.sh NAME/ }, args.join(' '));
    t.match(await restore(['../etc']), { code: 1, stderr: /is not the name of a backup/ });
    t.match(await restore(['20200101T000000Z']), {
      code: 1,
      stderr: /there is no complete backup 20200101T000000Z/,
    });
    t.match(await restore([name]), { code: 4, stderr: /the database hardpoint has \d+ rows.*--force/ });
    t.notMatch(calls(), /compose stop/, 'the service was not touched');
    t.equal((await restore(['--list'])).stdout, `${name}\n`);
  });

  await t.test('a backup that is damaged is refused before anything is touched', async (t) => {
    const file = join(w.backups, `${name}.dump`);
    flipByte(file, 0.6);
    t.match(await restore([name, '--force']), { code: 1, stderr: /is damaged[^]*nothing was changed/ });
    t.notMatch(calls(), /compose stop/);
    flipByte(file, 0.6);
  });

  const FAULTS: Record<string, RegExp> = {
    cut: /pg_restore: error/,
    rows: /ledger 4000\n---\n> public.ledger 3999[^]*was not restored completely/,
    swap: /database "missing" does not exist/,
  };
  for (const [fault, says] of Object.entries(FAULTS)) {
    await t.test(`one that fails half way (${fault}) leaves the old database in service`, async (t) => {
      const { code, stderr } = await restore([name, '--force'], fault);
      t.not(code, 0);
      t.match(stderr, says);
      t.match(stderr, /not restored; nothing was changed in the database hardpoint/);
      t.same(await databases(postgres), before);
      t.equal(await count(), ROWS + 1, 'and it takes connections');
      t.match(
        calls(),
        /compose stop api\n[^]*compose up .*--scale api=2 api\n$/,
        'the service was started again',
      );
    });
  }

  await t.test('with --force the backup takes the place of the database', async (t) => {
    // As a run leaves it that was killed between the two last steps.
    await withClient(superuser(postgres, 'postgres'), (client) =>
      client.query('alter database hardpoint allow_connections false'),
    );
    const { code, stderr } = await restore([name, '--force']);
    t.equal(code, 0, stderr);
    t.match(stderr, /done in \d+ s; the old database is hardpoint_before_/);
    t.equal(await count(), ROWS);
    const added = (await databases(postgres)).filter((database) => !before.includes(database));
    t.equal(added.length, 1, 'the old one is kept');
    t.match(added[0], /^hardpoint_before_\d{8}_\d{6}$/);
    t.match(
      calls(),
      /compose stop api\n[^]*compose restart redis-cache\n[^]*compose up .*--scale api=2 api\n$/,
    );
    // The rights are those of the roles, not of whoever restored.
    const app = `postgres://app:${postgres.password}@127.0.0.1:${postgres.port}/hardpoint`;
    await t.resolves(
      withClient(app, (client) => client.query(`insert into ledger values (-1, 'by the service')`)),
    );
    await t.rejects(
      withClient(app, (client) => client.query('drop table ledger')),
      { code: '42501' },
    );
    const readonly = app.replace('app:', 'readonly:');
    await t.resolves(withClient(readonly, (client) => client.query('select 1 from ledger')));
    t.equal((await openWorld(t, postgres).run('run')).code, 0, 'and it can be backed up again');
  });

  await t.test(
    'a session that still writes is ended, and a service that does not start is told',
    async (t) => {
      const writer = new Client({ connectionString: superuser(postgres) });
      await writer.connect();
      let ended = false;
      writer.on('error', () => (ended = true));
      await writer.query('begin; delete from ledger');
      t.match(await restore([name, '--force'], 'start'), {
        code: 1,
        stderr: /the service does not start/,
      });
      await until('the session is ended', () => ended);
      t.equal(await count(), ROWS);
    },
  );

  await t.test('an empty database needs no --force, and an encrypted backup is as good', async (t) => {
    if (!requireTool(t, 'openssl')) return;
    const sealed = openWorld(t, postgres, { docker: LOCAL_DOCKER });
    const passphrase = sealed.env.BACKUP_PASSPHRASE_FILE ?? '';
    writeFileSync(passphrase, '');
    t.match(await sealed.run('run'), { code: 1, stderr: /passphrase is empty/ });
    writeFileSync(passphrase, 'correct horse\n');
    t.equal((await sealed.run('run')).code, 0);
    const args = [nameOf(sealed)];
    const dumps = sealed.files().filter((file) => file.includes('dump'));
    t.same(dumps, [`${nameOf(sealed)}.dump.enc`]);
    t.equal(
      readFileSync(join(sealed.backups, dumps[0] ?? ''))
        .subarray(0, 8)
        .toString(),
      'Salted__',
    );

    for (const sql of ['drop database hardpoint with (force)', 'create database hardpoint'])
      await withClient(superuser(postgres, 'postgres'), (client) => client.query(sql));
    // What the service itself writes as soon as it starts on it.
    await withClient(superuser(postgres), (client) =>
      client.query('create table audit_event as select 1 as id'),
    );
    writeFileSync(passphrase, 'wrong horse\n');
    const wrong = /was not encrypted with the passphrase in [^]*nothing was changed/;
    t.match(await restore(args, '', sealed), { code: 1, stderr: wrong });
    rmSync(passphrase);
    t.match(await restore(args, '', sealed), { code: 1, stderr: /is encrypted, and .* holds no passphrase/ });
    writeFileSync(passphrase, 'correct horse\n');
    const { code, stderr } = await restore(args, '', sealed);
    t.equal(code, 0, stderr);
    t.equal(await count(), ROWS);
  });
}

/** A backup of each of 400 days, `last` the newest, as files with the names of days. */
function fakeDays(
  w: string,
  last: string,
  days: number,
  onDay: (day: number) => void = () => undefined,
): void {
  for (let ago = days - 1; ago >= 0; ago -= 1) {
    const date = new Date(Date.parse(last) - ago * 86_400_000);
    const day = date.toISOString().slice(0, 10).replaceAll('-', '');
    // A second one a week, before a release, say.
    for (const time of date.getUTCDay() === 3 ? ['020000', '130000'] : ['020000'])
      for (const kind of ['dump', 'facts', 'sha256']) writeFileSync(join(w, `${day}T${time}Z.${kind}`), '');
    onDay(days - ago);
  }
}

t.test('of 400 days 7 daily, 4 weekly and 12 monthly ones stay', async (t) => {
  if (!requireTool(t, 'bash')) return;
  const thin = (folder: string, changes = {}, ...args: string[]) =>
    spawnSync(join(scripts, 'backup.sh'), ['thin', ...args], {
      env: { PATH: process.env.PATH, BACKUP_DIR: folder, ...changes },
      encoding: 'utf8',
    });
  const kept = (folder: string) =>
    readdirSync(folder)
      .filter((name) => name.endsWith('.sha256'))
      .map((name) => name.slice(0, 11))
      .toSorted();

  const TABLE: Record<string, string> = {
    '2026-02-04': `20250331T02 20250430T13 20250531T02 20250630T02 20250731T02 20250831T02 20250930T02 20251031T02
      20251130T02 20251231T13 20260118T02 20260125T02 20260129T02 20260130T02 20260131T02 20260201T02 20260202T02
      20260203T02 20260204T13`,
    // The last week of the year is the first of the next.
    '2026-01-02': `20250228T02 20250331T02 20250430T13 20250531T02 20250630T02 20250731T02 20250831T02 20250930T02
      20251031T02 20251130T02 20251214T02 20251221T02 20251227T02 20251228T02 20251229T02 20251230T02 20251231T13
      20260101T02 20260102T02`,
  };
  for (const [last, names] of Object.entries(TABLE)) {
    const once = temporaryFolder(t);
    fakeDays(once, last, 400);
    t.match(thin(once, {}, '--dry-run'), { status: 0, stderr: /too old: 2025/ });
    t.ok(kept(once).length > 400, 'a dry run deletes nothing');
    t.equal(thin(once).status, 0);
    t.same(kept(once), names.split(/\s+/), last);
    t.same(readdirSync(once).length, 3 * kept(once).length, 'nothing is left of the others');
  }

  const often = temporaryFolder(t);
  fakeDays(often, '2026-02-04', 400, (day) => {
    if (day % 25 === 0) thin(often);
  });
  t.same(kept(often), TABLE['2026-02-04']?.split(/\s+/), 'the same when it is done all the time');

  const folder = temporaryFolder(t);
  fakeDays(folder, '2026-02-04', 3);
  writeFileSync(join(folder, '20260205T020000Z.dump'), '');
  const none = { BACKUP_KEEP_DAILY: '0', BACKUP_KEEP_WEEKLY: '0', BACKUP_KEEP_MONTHLY: '0' };
  t.equal(thin(folder, none).status, 0);
  t.same(kept(folder), ['20260204T13'], 'the last good one stays whatever is asked');
  t.ok(existsSync(join(folder, '20260205T020000Z.dump')), 'what is no backup is nothing to count with');
});

t.test('shellcheck finds nothing in the scripts', (t) => {
  const shellcheck = requireTool(t, 'shellcheck');
  if (shellcheck) {
    const files = ['scripts', 'docker', 'docker/redis', 'docker/postgres', 'nginx'].flatMap((folder) =>
      readdirSync(join(repositoryDir, folder))
        .filter((name) => name.endsWith('.sh'))
        .map((name) => `${folder}/${name}`),
    );
    t.ok(files.length > 10);
    // SC1091: setup.sh sources a path of its container.
    const { status, stdout } = spawnSync(shellcheck, ['-x', '-e', 'SC1091', ...files], {
      cwd: repositoryDir,
      encoding: 'utf8',
    });
    t.equal(status, 0, stdout);
  }
  t.end();
});
