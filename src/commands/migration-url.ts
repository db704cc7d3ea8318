import { readFileSync } from 'node:fs';

/**
 * The URL of the database to migrate: DATABASE_MIGRATION_URL, else DATABASE_URL, each also as `NAME_FILE`.
 * Apart from loadConfig, because a migration job holds the secret of the database and no other.
 */
export function readMigrationUrl(env: NodeJS.ProcessEnv): string {
  for (const name of ['DATABASE_MIGRATION_URL', 'DATABASE_URL']) {
    const file = env[`${name}_FILE`];
    const url = env[name];
    if (file && url) throw new Error(`${name} and ${name}_FILE are both set: leave one out.`);
    if (file) return readSecret(`${name}_FILE`, file);
    if (url) return url;
  }
  throw new Error('Neither DATABASE_MIGRATION_URL nor DATABASE_URL is set.');
}

function readSecret(name: string, file: string): string {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (err) {
    throw new Error(`${name}: cannot read ${file}.`, { cause: err });
  }
}
