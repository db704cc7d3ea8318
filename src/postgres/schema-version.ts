import { listMigrationNames, MIGRATIONS_FOLDER } from '../migrations/files.ts';
import type { Tx } from './postgres.ts';

/** The newest migration that this release ships. Reads a folder: call it once, at the start. */
export function expectedSchemaVersion(): string {
  const newest = listMigrationNames(MIGRATIONS_FOLDER).at(-1);
  if (newest === undefined) throw new Error(`No migration in ${MIGRATIONS_FOLDER}`);
  return newest;
}

/**
 * Whether a release that expects `expected` can work on a schema with these migrations. A schema that is
 * ahead is ready too: during a rollout and after a rollback the older release runs on the newer schema.
 */
export function schemaIsReady(expected: string, appliedNames: readonly string[]): boolean {
  return appliedNames.includes(expected);
}

/** The names of all applied migrations, oldest first; none when the database was never migrated. */
export async function readAppliedMigrations(tx: Tx): Promise<string[]> {
  // Asked first, because a query of a missing table would also end the caller's transaction.
  const [table] = await tx.query<{ present: boolean }>({
    name: 'schema_migration_present',
    text: `select to_regclass('public.schema_migration') is not null as present`,
  });
  if (table?.present !== true) return [];
  const rows = await tx.query<{ name: string }>({
    name: 'schema_migration_names',
    text: 'select name from public.schema_migration order by name',
  });
  return rows.map((row) => row.name);
}

/** The newest applied migration, or undefined when the database was never migrated. */
export async function readSchemaVersion(tx: Tx): Promise<string | undefined> {
  return (await readAppliedMigrations(tx)).at(-1);
}
