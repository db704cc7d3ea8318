import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { openEmbeddedPostgres } from '../../../tools/dev/embedded-postgres.ts';
import { ensureDatabase } from '../../../tools/dev/database.ts';
import { withClient } from '../../../test/support/postgres.ts';

const SCRIPTS = fileURLToPath(new URL('../../../docker/postgres/init/', import.meta.url));
const DATABASE = 'hardpoint';

export interface ClusterPostgres {
  /** The URL of a role that 10-roles.sql makes. */
  urlOf(role: 'migrator' | 'app'): string;
  close(): Promise<void>;
}

/** A Postgres outside of the cluster with the roles and the rights that docs/kubernetes.md asks for. */
export async function openPostgres(dataDir: string, say: (line: string) => void): Promise<ClusterPostgres> {
  const server = await openEmbeddedPostgres({ dataDir, say });
  try {
    const databaseUrl = await ensureDatabase(server.url, DATABASE);
    const password = randomBytes(16).toString('hex');
    await runScript(server.url, '10-roles.sql', password);
    await runScript(databaseUrl, '20-database.sql', password);
    const urlOf = (role: string) => Object.assign(new URL(databaseUrl), { username: role, password }).href;
    return { urlOf, close: () => server.stop() };
  } catch (error) {
    await server.stop();
    throw error;
  }
}

/** What psql would do with the lines that begin with a backslash, and with their variables. */
async function runScript(url: string, name: string, password: string): Promise<void> {
  const text = readFileSync(SCRIPTS + name, 'utf8')
    .replace(/^.*\\(set|gset).*$/gm, '')
    .replace(/:'\w+'/g, `'${password}'`)
    .replaceAll(':"database"', DATABASE)
    // The embedded server has no extensions.
    .replace(/^create extension .*$/gm, '');
  await withClient(url, (client) => client.query(text));
}
