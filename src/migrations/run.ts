import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { MigrationBuilder } from 'node-pg-migrate';
import { PG_MIGRATE_LOCK_ID, runner } from 'node-pg-migrate';
import { DatabaseError } from 'pg';
import type { Client } from 'pg';
import type { Say } from './connection.ts';
import type { MigrationFile, MigrationSection } from './files.ts';

export interface MigrationOptions {
  say: Say;
  /** How long a migration waits for a table's lock. Short, because every query of the table queues behind it. */
  lockTimeoutMs?: number;
  lockAttempts?: number;
  /** How long to wait for another process that migrates the same database. */
  otherMigratorMs?: number;
}

type Direction = 'up' | 'down';

const STATEMENT_TIMEOUT_MS = 60_000;
/** Of "create index concurrently" and its like, which block nobody: they may wait, and take their time. */
const LONE_STATEMENT_TIMEOUT_MS = 3_600_000;

const silent = (): void => undefined;
const SILENT = { debug: silent, info: silent, warn: silent, error: silent };

/**
 * Runs one migration, its checksum and its mark in one transaction, so that a crash at any moment leaves
 * all of it or nothing. Tries again when a lock is not to be had. Throws an Error with one line that names
 * the file, the line if Postgres knows it, and what Postgres said.
 */
export async function runMigration(
  client: Client,
  file: MigrationFile,
  direction: Direction,
  { say, lockTimeoutMs = 2000, lockAttempts = 5 }: MigrationOptions,
): Promise<void> {
  const section = file[direction];
  for (let attempt = 1; ; attempt += 1) {
    const startedAt = Date.now();
    try {
      await client.query(
        `set timezone = 'UTC';
         set lock_timeout = ${section.transaction ? lockTimeoutMs : 0};
         set statement_timeout = ${section.transaction ? STATEMENT_TIMEOUT_MS : LONE_STATEMENT_TIMEOUT_MS}`,
      );
      await run(client, file, direction);
      say(`${direction === 'up' ? 'Applied' : 'Reverted'} ${file.name} in ${Date.now() - startedAt} ms.`);
      return;
    } catch (err) {
      await client.query('rollback').catch(() => undefined);
      if (!section.transaction || !isLockFailure(err) || attempt === lockAttempts) {
        throw new Error(describeFailure(err, file, section), { cause: err });
      }
      say(
        `${file.name} waits for a lock that another session holds: try ${attempt} of ${lockAttempts} ended.`,
      );
      // Between the tries the queries that queued behind this one get through. Jitter: some loads have a beat.
      await delay(500 + Math.random() * 1000);
    }
  }
}

/**
 * Waits until no other process migrates this database. The lock goes with the connection, so a process
 * that dies leaves none behind.
 */
export async function takeMigrationLock(
  client: Client,
  { say, otherMigratorMs = 300_000 }: MigrationOptions,
): Promise<void> {
  const deadline = Date.now() + otherMigratorMs;
  for (let told = false; ; told = true) {
    // Asked again and again instead of waited for: a waiting statement holds a snapshot, which
    // "create index concurrently" in the other process would wait for, for ever.
    const { rows } = await client.query<{ taken: boolean }>('select pg_try_advisory_lock($1) as taken', [
      PG_MIGRATE_LOCK_ID,
    ]);
    if (rows[0]?.taken === true) return;
    if (Date.now() >= deadline) {
      throw new Error(
        `Another process has been migrating this database for ${otherMigratorMs / 1000} s. See what it does: ` +
          `select pid, state, query from pg_stat_activity where application_name = 'migrate'`,
      );
    }
    if (!told) say('Another process is migrating this database: waiting for it.');
    await delay(100 + Math.random() * 200);
  }
}

async function run(client: Client, file: MigrationFile, direction: Direction): Promise<void> {
  await client.query(
    'create table if not exists public.schema_migration_checksum (name text primary key, sha256 text not null)',
  );
  // The library takes finished SQL only. Both values come from closed alphabets: [0-9a-z_] and hex.
  const bookkeeping = {
    up: `insert into public.schema_migration_checksum (name, sha256) values ('${file.name}', '${file.checksum}')
         on conflict (name) do update set sha256 = excluded.sha256`,
    down: `delete from public.schema_migration_checksum where name = '${file.name}'`,
  };
  const action = (pgm: MigrationBuilder): void => {
    if (!file[direction].transaction) pgm.noTransaction();
    pgm.sql(file[direction].sql);
    pgm.sql(bookkeeping[direction]);
  };
  // Handed over as read and hashed, not as a path: what runs is what the checksum is of.
  const unit = { id: file.path, filePaths: [file.path], actions: { [direction]: action } };
  await runner({
    dbClient: client,
    direction,
    file: file.name,
    count: 1,
    migrationsTable: 'schema_migration',
    dir: dirname(file.path),
    ignorePattern: '(?!.*\\.sql$).*',
    migrationLoaderStrategies: [{ extensions: ['.sql'], loader: () => Promise.resolve([unit]) }],
    // The caller has done both: the order by names instead of positions, the lock by asking for it.
    checkOrder: false,
    noLock: true,
    logger: SILENT,
  });
}

function isLockFailure(err: unknown): boolean {
  return err instanceof DatabaseError && (err.code === '55P03' || err.code === '40P01');
}

/** Without Postgres' "detail": it quotes rows. */
function describeFailure(err: unknown, { name }: MigrationFile, section: MigrationSection): string {
  const what = err instanceof Error ? err.message : String(err);
  const database = err instanceof DatabaseError ? err : undefined;
  const before = section.sql.slice(0, Number(database?.position ?? 1) - 1);
  const line =
    database?.position === undefined ? '' : `, line ${section.firstLine + before.split('\n').length - 1}`;
  const code = database?.code === undefined ? '' : ` (${database.code})`;
  const hint = isLockFailure(err)
    ? ' Another session holds the lock; the oldest transactions: select pid, xact_start, query from ' +
      'pg_stat_activity where xact_start is not null order by xact_start.'
    : '';
  const state = section.transaction
    ? 'Nothing of it was kept.'
    : 'It runs outside a transaction: remove what it left, such as an invalid index, before the next try.';
  return `migrations/${name}.sql${line}: ${what}${code}. ${state}${hint}`;
}
