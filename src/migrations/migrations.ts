import { setTimeout as delay } from 'node:timers/promises';
import type { Client } from 'pg';
import type { Say } from './connection.ts';
import type { MigrationFile } from './files.ts';
import { numberOf } from './files.ts';
import type { MigrationOptions } from './run.ts';
import { runMigration, takeMigrationLock } from './run.ts';

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

/** Every migration of the folder and of the database with its state, oldest first. */
export async function readMigrationRows(client: Client, files: MigrationFile[]): Promise<MigrationRow[]> {
  const applied = await readApplied(client);
  const newest = Math.max(0, ...applied.map((row) => numberOf(row.name)));
  const known = files.map((file): MigrationRow => {
    const row = applied.find(({ name }) => name === file.name);
    if (row === undefined) {
      const state = file.number > newest ? 'pending' : 'out-of-order';
      return { name: file.name, state, appliedAt: undefined };
    }
    const drifted = row.sha256 !== null && row.sha256 !== file.checksum;
    return { name: file.name, state: drifted ? 'drifted' : 'applied', appliedAt: row.applied_at };
  });
  const unknown = applied
    .filter(({ name }) => files.every((file) => file.name !== name))
    .map((row): MigrationRow => ({ name: row.name, state: 'unknown', appliedAt: row.applied_at }));
  return [...known, ...unknown].toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

/**
 * Applies all pending migrations, each in its own transaction, and returns their names. Started by several
 * processes at once, one works and the others wait for it. Throws before it changes anything when a file
 * drifted or is out of order.
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

  await takeMigrationLock(client, options);
  const rows = await readMigrationRows(client, files);
  refuseUnsafe(rows);
  const pending = rows.filter((row) => row.state === 'pending').map((row) => row.name);
  for (const file of files.filter(({ name }) => pending.includes(name))) {
    await runMigration(client, file, 'up', options);
  }
  return pending;
}

const LOOK_AGAIN_MS = 500;

/**
 * Waits until every migration of this release was applied, by whoever does it; what a newer release applied
 * besides is no matter. Needs to read only. Throws with what is missing when `waitSeconds` have passed.
 */
export async function waitUntilApplied(
  client: Client,
  files: MigrationFile[],
  { waitSeconds, say }: { waitSeconds: number; say: Say },
): Promise<void> {
  const endMs = performance.now() + waitSeconds * 1000;
  let told = '';
  for (;;) {
    const rows = await readMigrationRows(client, files);
    const missing = rows.filter(({ appliedAt }) => appliedAt === undefined).map(({ name }) => name);
    if (missing.length === 0) return;
    const text = missing.join(', ');
    if (performance.now() >= endMs) throw new Error(`After ${waitSeconds} s not applied: ${text}.`);
    if (text !== told) say(`Waiting for ${text} …`);
    told = text;
    await delay(LOOK_AGAIN_MS);
  }
}

/** Reverts the newest `count` migrations, newest first, and returns their names. */
export async function revertNewest(
  client: Client,
  files: MigrationFile[],
  count: number,
  options: MigrationOptions,
): Promise<string[]> {
  await takeMigrationLock(client, options);
  const applied = await readApplied(client);
  const names = applied
    .map((row) => row.name)
    .toReversed()
    .slice(0, count);
  const toRevert = names.map((name) => {
    const file = files.find((candidate) => candidate.name === name);
    if (file === undefined) {
      throw new Error(`${name} was applied by another release: only that release can revert it.`);
    }
    return file;
  });
  for (const file of toRevert) await runMigration(client, file, 'down', options);
  return names;
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

interface AppliedRow {
  name: string;
  sha256: string | null;
  applied_at: Date;
}

async function readApplied(client: Client): Promise<AppliedRow[]> {
  const { rows: tables } = await client.query<{ present: boolean }>(
    `select to_regclass('public.schema_migration') is not null as present`,
  );
  if (tables[0]?.present !== true) return [];
  const { rows } = await client.query<AppliedRow>(
    `select name, sha256, run_on at time zone 'utc' as applied_at
     from public.schema_migration
     left join public.schema_migration_checksum using (name)
     order by name`,
  );
  return rows;
}
