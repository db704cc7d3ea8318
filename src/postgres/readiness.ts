import { inTime } from '../lib/in-time.ts';
import type { Db } from './postgres.ts';
import { expectedSchemaVersion, readAppliedMigrations, schemaIsReady } from './schema-version.ts';

const TIMEOUT_MS = 1_000;

/**
 * Whether this release can work: Postgres answers in time and its schema is not older than the
 * release (newer is fine). The returned check rejects with the reason.
 */
export function createDatabaseCheck(db: Db): () => Promise<void> {
  const expected = expectedSchemaVersion();
  return async () => {
    const applied = await inTime(readAppliedMigrations(db.checks), TIMEOUT_MS);
    if (applied === undefined) throw new Error(`Postgres did not answer within ${TIMEOUT_MS} ms`);
    if (!schemaIsReady(expected, applied)) {
      throw new Error(`the schema lacks migration ${expected}: run "npm run migrate -- up"`);
    }
  };
}
