import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import t from 'tap';
import { startClientPostgres } from '../support/client-postgres.ts';
import { withClient } from '../support/postgres.ts';
import { startRedis } from '../support/redis.ts';
import { temporaryFolder } from '../support/scripts.ts';
import { repositoryDir } from '../support/servers.ts';

const ROLES = ['migrator', 'app', 'readonly', 'backup', 'monitor'] as const;
type Role = (typeof ROLES)[number];
const EVERYBODY = ROLES.slice();
const NOBODY: Role[] = [];

/** Who may do it, of ROLES. */
const DEEDS: [deed: string, mayDoIt: Role[]][] = [
  ['select id, tenant, scopes, revoked_at from api_key', ['migrator', 'app', 'readonly', 'backup']],
  ['select digest from api_key', ['migrator', 'app', 'backup']],
  ['select status from idempotency_record', ['migrator', 'app', 'readonly', 'backup']],
  ['select body from idempotency_record', ['migrator', 'app', 'backup']],
  ['select headers from idempotency_record', ['migrator', 'app', 'backup']],
  ['select from audit_event', ['migrator', 'app', 'readonly', 'backup']],
  ['update api_key set name = name', ['migrator', 'app']],
  ['delete from idempotency_record', ['migrator', 'app']],
  ['truncate idempotency_record', ['migrator']],
  ['truncate audit_event', NOBODY],
  ['select name from schema_migration', ['migrator', 'app', 'readonly', 'backup']],
  ['delete from schema_migration', ['migrator']],
  [`insert into schema_migration (name, run_on) values ('9999_x', now())`, ['migrator']],
  [`update schema_migration_checksum set sha256 = 'x'`, ['migrator']],
  [`select nextval('schema_migration_id_seq')`, ['migrator']],
  ['create table made_here (id int)', ['migrator']],
  ['create temporary table made_here (id int)', ['migrator']],
  ['create schema made_here', ['migrator']],
  ['drop table idempotency_record', ['migrator']],
  // DDL is the only way to the past of the audit log.
  ['alter table audit_event disable trigger user', ['migrator']],
  ['create function f() returns int language sql as $$select 1$$', ['migrator']],
  ['select lo_create(0)', NOBODY],
  ['select lo_creat(0)', NOBODY],
  [`select lo_from_bytea(0, '\\x00')`, NOBODY],
  [`select lo_import('/etc/passwd')`, NOBODY],
  [`select pg_read_file('/etc/passwd')`, NOBODY],
  [`copy api_key to program 'cat'`, NOBODY],
  // Whoever dumps reads everything; what is there is no password, and those are 256 random bits.
  ['select from pg_authid', ['backup']],
  [`set session_replication_role = 'replica'`, NOBODY],
  [`alter role readonly password 'x'`, ['readonly']],
  [`alter database hardpoint set work_mem = '1MB'`, ['migrator']],
  ['create role made_here', NOBODY],
  ['select query from pg_stat_statements limit 1', EVERYBODY],
  ['select pg_terminate_backend(pid) from pg_stat_activity where usename = $$postgres$$ limit 0', EVERYBODY],
  // Postgres lets every role change its own password and settings, and has no way to forbid it: docs/compose.md.
  [`alter role app password 'x'`, ['app']],
  ['alter role app set work_mem = 64', ['app']],
];

t.test('each role of Postgres may do what its work needs, and no more', async (t) => {
  const postgres = await startClientPostgres(t);
  if (!postgres) return;
  for (const role of ROLES) {
    const url = `postgres://${role}:${postgres.password}@127.0.0.1:${postgres.port}/hardpoint`;
    await withClient(url, async (client) => {
      if (role === 'readonly') await client.query('set default_transaction_read_only = off');
      for (const [deed, mayDoIt] of DEEDS) {
        await client.query('begin');
        const error: Error | undefined = await client.query(deed).then(
          () => undefined,
          (thrown: Error) => thrown,
        );
        await client.query('rollback');
        const denied =
          /permission denied|must be owner|append-only|must be superuser|cannot be run inside|read-only/i;
        if (error && !denied.test(error.message)) throw new Error(`${role}: ${deed}: ${error.message}`);
        t.equal(error === undefined, mayDoIt.includes(role), `${role}: ${deed}`);
      }
    });
  }
});

const COMMANDS: [command: string, mayDoIt: string[]][] = [
  ['PING', ['default', 'app', 'monitor', 'replication', 'sentinel']],
  ['GET hp:a', ['app']],
  ['GET other', []],
  ['SET hp:a 1', ['app']],
  ['SET other 1', []],
  ['EVAL return(1) 0', ['app']],
  [`EVAL return(redis.call('GET','other')) 0`, []],
  ['SCRIPT EXISTS a', ['app']],
  ['SCRIPT FLUSH', []],
  ['FUNCTION FLUSH', []],
  ['FUNCTION LIST', []],
  ['FUNCTION STATS', []],
  ['FCALL f 0', []],
  ['PUBLISH hp:a 1', ['app', 'sentinel']],
  ['PUBLISH other 1', ['sentinel']],
  ['INFO', ['app', 'monitor', 'sentinel']],
  ['FLUSHALL', []],
  ['FLUSHDB', []],
  ['KEYS *', []],
  ['CONFIG GET maxmemory', []],
  ['ACL LIST', []],
  ['CLIENT LIST', []],
  ['CLIENT KILL ID 999999', ['sentinel']],
  ['REPLICAOF NO ONE', ['sentinel']],
  ['MONITOR', []],
  ['SAVE', []],
  ['SLOWLOG GET', ['monitor']],
];

t.test('each user of Redis may do what its work needs, and no more', async (t) => {
  const passwords = { redis: 'a-of-app', monitor: 'a-of-m', replication: 'a-of-r', sentinel: 'a-of-s' };
  const options = { env: { ...process.env, ...passwords }, encoding: 'utf8' as const };
  const users = execFileSync('sh', [join(repositoryDir, 'docker/redis-users.sh')], options);
  const file = join(temporaryFolder(t), 'users.acl');
  writeFileSync(file, users);
  const redis = await startRedis(t, { args: ['--aclfile', file] });
  if (!redis) return;
  const logins = {
    default: '',
    app: 'a-of-app',
    monitor: 'a-of-m',
    replication: 'a-of-r',
    sentinel: 'a-of-s',
  };
  for (const [username, password] of Object.entries(logins)) {
    const login = password === '' ? {} : { username, password };
    const client = new Redis({ port: redis.port, ...login, enableReadyCheck: false, lazyConnect: true });
    client.on('error', () => undefined);
    t.teardown(() => client.disconnect());
    await client.connect();
    for (const [command, mayDoIt] of COMMANDS) {
      const [name = '', ...args] = command.split(' ');
      const answer = await client.call(name, ...args).then(
        () => 'OK',
        (error: Error) => error.message,
      );
      const isDenied = /NOPERM|can't access|ACL failure/i.test(answer);
      t.equal(!isDenied, mayDoIt.includes(username), `${username}: ${command}: ${answer}`);
    }
  }
});
