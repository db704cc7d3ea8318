/**
 * The schema: applies and reverts the numbered SQL files of /migrations.
 *
 * Each file runs in a transaction of its own, under an advisory lock, so that of several processes one works and the
 * others wait. The checksum of an applied file is stored: an edited one is refused. A file whose number is not the
 * newest is refused. `readiness` in postgres/ compares the schema with the newest file; a schema that is ahead is
 * ready too.
 *
 * Failures: a statement that does not get its lock within `lock_timeout` is tried again a few times; an error names
 * the file and the line, and nothing of that file is applied.
 */

import { setTimeout as delay } from 'node:timers/promises';
import { DatabaseError, type Client } from 'pg';
import { repeat, type Say } from './connection.ts';
import type { MigrationFile, MigrationSection } from './files.ts';

/**
 * - `drifted`: applied, but the file is no longer what was applied.
 * - `out-of-order`: pending, but with a number that is not above everything that was applied.
 * - `unknown`: applied by another release; this one has no such file.
 */
export type MigrationState = 'applied' | 'pending' | 'drifted' | 'out-of-order' | 'unknown';

export interface MigrationRow {
  name: string;
  state: MigrationState;
  appliedAt: Date | undefined;
}

export interface MigrationOptions {
  say: Say;
  /** How long a migration waits for a table's lock. Short, because every query of the table queues behind it. */
  lockTimeoutMs?: number;
  lockAttempts?: number;
  /** How long to wait for another process that migrates the same database. */
  otherMigratorMs?: number;
}

/** Of the advisory lock. Older releases take the same one. */
export const LOCK_ID = 7241865325823964;

/** Every migration of the folder and of the database with its state, oldest first. */
export async function readMigrationRows(client: Client, files: MigrationFile[]): Promise<MigrationRow[]> {
  const applied = await readApplied(client);
  const newest = applied.at(-1)?.name ?? '';
  const known = files.map(({ name, checksum }): MigrationRow => {
    const row = applied.find((candidate) => candidate.name === name);
    if (row === undefined) {
      const state = name.slice(0, 4) > newest.slice(0, 4) ? 'pending' : 'out-of-order';
      return { name, state, appliedAt: undefined };
    }
    const drifted = row.sha256 !== null && row.sha256 !== checksum;
    return { name, state: drifted ? 'drifted' : 'applied', appliedAt: row.applied_at };
  });
  const unknown = applied
    .filter(({ name }) => files.every((file) => file.name !== name))
    .map((row): MigrationRow => ({ name: row.name, state: 'unknown', appliedAt: row.applied_at }));
  return [...known, ...unknown].toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

/**
 * Applies all pending migrations, each in its own transaction, and returns their names. Of several processes that
 * start at once, one works and the others wait for it. Throws before it changes anything when a file drifted or is
 * out of order.
 */
export async function applyPending(
  client: Client,
  files: MigrationFile[],
  options: MigrationOptions,
): Promise<string[]> {
  const before = await readMigrationRows(client, files);
  refuseUnsafe(before);
  const unknown = before.filter((row) => row.state === 'unknown').map((row) => row.name);
  if (unknown.length > 0) {
    options.say(`Warning: the database has migrations that this release does not: ${unknown.join(', ')}.`);
  }
  // Nothing to do here: do not wait for a newer release that may be migrating just now.
  if (before.every((row) => row.state !== 'pending')) return [];

  await takeLock(client, options);
  const rows = await readMigrationRows(client, files);
  refuseUnsafe(rows);
  await client.query(CREATE_TABLES);
  const pending = rows.filter((row) => row.state === 'pending').map((row) => row.name);
  for (const file of files.filter(({ name }) => pending.includes(name))) {
    await runMigration(client, file, 'up', options);
  }
  return pending;
}

/** Reverts the newest `count` migrations, newest first, and returns their names. */
export async function revertNewest(
  client: Client,
  files: MigrationFile[],
  count: number,
  options: MigrationOptions,
): Promise<string[]> {
  await takeLock(client, options);
  const applied = await readApplied(client);
  const newest = applied.toReversed().slice(0, count);
  const toRevert = newest.map(({ name }) => {
    const file = files.find((candidate) => candidate.name === name);
    if (file) return file;
    throw new Error(`${name} was applied by another release: only that release can revert it.`);
  });
  for (const file of toRevert) await runMigration(client, file, 'down', options);
  return toRevert.map(({ name }) => name);
}

/**
 * Waits until every migration of this release was applied, by whichever process does it; what a newer release
 * applied besides does not matter. Only reads. Throws with what is missing when `waitSeconds` have passed.
 */
export async function waitUntilApplied(
  client: Client,
  files: MigrationFile[],
  { waitSeconds, say }: { waitSeconds: number; say: Say },
): Promise<void> {
  let missing = '';
  const done = await repeat({ forMs: waitSeconds * 1000, everyMs: 500 }, async () => {
    const rows = await readMigrationRows(client, files);
    const names = rows.filter(({ appliedAt }) => appliedAt === undefined).map(({ name }) => name);
    if (names.length === 0) return true;
    if (names.join(', ') !== missing && waitSeconds > 0) say(`Waiting for ${names.join(', ')} …`);
    missing = names.join(', ');
    return undefined;
  });
  if (!done) throw new Error(`After ${waitSeconds} s not applied: ${missing}.`);
}

function refuseUnsafe(rows: MigrationRow[]): void {
  const drifted = rows.find((row) => row.state === 'drifted');
  if (drifted !== undefined) {
    throw new Error(
      `migrations/${drifted.name}.sql was changed after it was applied. Put the old text back ` +
        `(git log -p migrations/${drifted.name}.sql) and make the change a new migration ` +
        `(npm run migrate -- new NAME).`,
    );
  }
  const late = rows.find((row) => row.state === 'out-of-order');
  if (late !== undefined) {
    const newest = rows.findLast((row) => row.appliedAt !== undefined)?.name;
    throw new Error(
      `migrations/${late.name}.sql is not applied, but ${newest} already is: databases would differ by ` +
        `the order. Give the file a number above ${newest?.slice(0, 4)}.`,
    );
  }
}

/** The lock goes with the connection, so a process that dies leaves none behind. */
async function takeLock(client: Client, { say, otherMigratorMs = 300_000 }: MigrationOptions): Promise<void> {
  let announced = false;
  const taken = await repeat({ forMs: otherMigratorMs, everyMs: 200 }, async () => {
    // Polled: a waiting statement holds a snapshot, for which "create index concurrently" in the other
    // process would wait without end.
    const { rows } = await client.query('select from pg_try_advisory_lock($1) as taken where taken', [
      LOCK_ID,
    ]);
    if (rows.length === 1) return true;
    if (!announced) say('Another process is migrating this database: waiting for it.');
    announced = true;
    return undefined;
  });
  if (taken) return;
  throw new Error(
    `Another process has been migrating this database for ${otherMigratorMs / 1000} s. See what it does: ` +
      `select pid, state, query from pg_stat_activity where application_name = 'migrate'`,
  );
}

/** In the form that the first releases made, with a library. */
const CREATE_TABLES = `
  create table if not exists public.schema_migration
    (id serial primary key, name varchar(255) not null, run_on timestamp not null);
  create table if not exists public.schema_migration_checksum (name text primary key, sha256 text not null)`;

const RECORD = {
  up: `with migration as (
         insert into public.schema_migration (name, run_on) values ($1, now() at time zone 'utc')
       )
       insert into public.schema_migration_checksum (name, sha256) values ($1, $2)
       on conflict (name) do update set sha256 = excluded.sha256`,
  down: `with migration as (delete from public.schema_migration where name = $1)
         delete from public.schema_migration_checksum where name = $1`,
};

async function readApplied(
  client: Client,
): Promise<{ name: string; sha256: string | null; applied_at: Date }[]> {
  const found = await client.query(`select where to_regclass('public.schema_migration') is not null`);
  if (found.rowCount === 0) return [];
  const { rows } = await client.query(
    `select name, sha256, run_on at time zone 'utc' as applied_at
     from public.schema_migration
     left join public.schema_migration_checksum using (name)
     order by name`,
  );
  return rows;
}

/**
 * Runs one migration and records it, with its checksum, in one transaction: a crash at any moment leaves all of it or
 * nothing. Tries again when it does not get a lock. Throws an Error with one line that names the file, the line if
 * Postgres knows it, and what Postgres said.
 */
async function runMigration(
  client: Client,
  file: MigrationFile,
  direction: 'up' | 'down',
  { say, lockTimeoutMs = 2000, lockAttempts = 5 }: MigrationOptions,
): Promise<void> {
  const { name, checksum, [direction]: section } = file;
  // Without a transaction: "create index concurrently" and its like, which block no query. They may wait, and take long.
  const [lockMs, statementMs] = section.transaction ? [lockTimeoutMs, 60_000] : [0, 3_600_000];
  for (let attempt = 1; ; attempt += 1) {
    const startedAt = performance.now();
    try {
      await client.query(`set lock_timeout = ${lockMs}; set statement_timeout = ${statementMs}`);
      if (section.transaction) await client.query('begin');
      await client.query(section.sql);
      await client.query(RECORD[direction], direction === 'up' ? [name, checksum] : [name]);
      if (section.transaction) await client.query('commit');
      const took = Math.round(performance.now() - startedAt);
      say(`${direction === 'up' ? 'Applied' : 'Reverted'} ${name} in ${took} ms.`);
      return;
    } catch (err) {
      await client.query('rollback').catch(() => undefined);
      if (!section.transaction || !isLockFailure(err) || attempt === lockAttempts) {
        throw new Error(describeFailure(err, name, section), { cause: err });
      }
      say(`${name} waits for a lock that another session holds: try ${attempt} of ${lockAttempts} ended.`);
      // Between the tries the queries that queued behind this one get through. Jitter: some loads have a beat.
      await delay(500 + Math.random() * 1000);
    }
  }
}

function isLockFailure(err: unknown): boolean {
  return err instanceof DatabaseError && (err.code === '55P03' || err.code === '40P01');
}

/** Without Postgres' "detail": it quotes rows. */
function describeFailure(err: unknown, name: string, section: MigrationSection): string {
  const { message, code, position } = err as DatabaseError;
  const before = section.sql.slice(0, Number(position ?? 1) - 1);
  const line = position === undefined ? '' : `, line ${section.firstLine + before.split('\n').length - 1}`;
  const hint = isLockFailure(err)
    ? ' Another session holds the lock; the oldest transactions: select pid, xact_start, query from ' +
      'pg_stat_activity where xact_start is not null order by xact_start.'
    : '';
  const state = section.transaction
    ? 'Nothing of it was kept.'
    : 'It runs outside a transaction: remove what it left, such as an invalid index, before the next try.';
  return `migrations/${name}.sql${line}: ${message}${code === undefined ? '' : ` (${code})`}. ${state}${hint}`;
}
