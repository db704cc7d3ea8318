import { withTimeout } from '../lib/timeouts.ts';
import type { Db, Tx } from './postgres.ts';

const TIMEOUT_MS = 1_000;

/**
 * Whether this release can work: Postgres responds in time, and has the newest migration of the release. A schema that
 * is ahead is fine: during a rollout and after a rollback the older release runs on the newer schema. The returned
 * check rejects with the reason.
 */
export function createDatabaseCheck(
  { checks }: Pick<Db, 'checks'>,
  newestMigration: string,
): () => Promise<void> {
  return async () => {
    const applied = await withTimeout(readAppliedMigrations(checks), TIMEOUT_MS);
    if (applied === undefined) throw new Error(`Postgres did not respond within ${TIMEOUT_MS} ms`);
    if (!applied.includes(newestMigration)) {
      throw new Error(`the schema lacks migration ${newestMigration}: run "npm run migrate -- up"`);
    }
  };
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
