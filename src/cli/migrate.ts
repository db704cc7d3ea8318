import { parseArgs } from 'node:util';
import type { Client } from 'pg';
import type { Say } from '../migrations/connection.ts';
import { openMigrationConnection } from '../migrations/connection.ts';
import { createMigrationFile, MIGRATIONS_FOLDER, readMigrationFiles } from '../migrations/files.ts';
import type { MigrationFile } from '../migrations/files.ts';
import type { MigrationRow } from '../migrations/migrations.ts';
import { applyPending, readMigrationRows, revertNewest, waitUntilApplied } from '../migrations/migrations.ts';
import { loadMigrationUrl } from '../config/config.ts';
import { commandEnvironment, isEntry } from './environment.ts';

const USAGE = `Usage: npm run migrate -- COMMAND [--wait SECONDS]

  up            apply every pending migration
  down [N]      revert the newest one, or the newest N
  wait          wait until another process has applied all of them; for --wait SECONDS
  status        list all migrations and their state; --json for machines
  new NAME      write the next numbered file, NAME such as add_customer

The database is DATABASE_MIGRATION_URL or else DATABASE_URL (or the file named by either with _FILE),
reached directly: a PgBouncer in transaction mode loses the migration lock.
--wait: how long a server may take to start, and others to apply; 30 seconds unless told.`;

export interface MigrateOptions {
  databaseUrl: string;
  /** Progress, a line at a time. */
  say?: Say;
  /** How long the server may take to answer at all. */
  waitSeconds?: number;
  folder?: string;
}

interface Terminal {
  env: NodeJS.ProcessEnv;
  out: Say;
  err: Say;
  folder?: string;
}

/** Brings a database to the newest schema of this release; returns the names of what was applied. */
export async function migrateUp(options: MigrateOptions): Promise<{ applied: string[] }> {
  return withDatabase(options, async (client, files, say) => ({
    applied: await applyPending(client, files, { say }),
  }));
}

/** Runs the command and returns its exit code. A failure becomes one message on `err`; nothing is thrown. */
export async function runMigrate(argv: string[], terminal: Terminal): Promise<number> {
  try {
    terminal.out(await execute(argv, terminal));
    return 0;
  } catch (err) {
    terminal.err(err instanceof Error ? err.message : String(err));
    return 1;
  }
}

async function execute(
  argv: string[],
  { env, out, err, folder = MIGRATIONS_FOLDER }: Terminal,
): Promise<string> {
  const { positionals, values } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      wait: { type: 'string', default: '30' },
      json: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  });
  const [command, argument, ...rest] = positionals;
  const target = (say: Say): MigrateOptions => ({
    databaseUrl: loadMigrationUrl(env),
    waitSeconds: wholeNumber('--wait', values.wait),
    say,
    folder,
  });

  if (values.help === true) return USAGE;
  if (command === 'up' && argument === undefined) {
    const { applied } = await migrateUp(target(out));
    return applied.length === 0 ? 'Nothing to apply.' : `${applied.length} applied.`;
  }
  if (command === 'down' && rest.length === 0) {
    const count = wholeNumber('down', argument ?? '1');
    const reverted = await withDatabase(target(out), (client, files, say) =>
      revertNewest(client, files, count, { say }),
    );
    return reverted.length === 0 ? 'Nothing to revert.' : `${reverted.length} reverted.`;
  }
  if (command === 'wait' && argument === undefined) {
    const waitSeconds = wholeNumber('--wait', values.wait);
    await withDatabase(target(out), (client, files, say) =>
      waitUntilApplied(client, files, { waitSeconds, say }),
    );
    return 'Everything is applied.';
  }
  if (command === 'status' && argument === undefined) {
    const migrations = await withDatabase(target(err), readMigrationRows);
    return values.json === true ? JSON.stringify({ migrations }, null, 2) : table(migrations);
  }
  if (command === 'new' && argument !== undefined && rest.length === 0) {
    return createMigrationFile(folder, argument);
  }
  throw new Error(USAGE);
}

async function withDatabase<T>(
  {
    databaseUrl,
    say: progress = () => undefined,
    waitSeconds = 30,
    folder = MIGRATIONS_FOLDER,
  }: MigrateOptions,
  work: (client: Client, files: MigrationFile[], progress: Say) => Promise<T>,
): Promise<T> {
  const files = readMigrationFiles(folder);
  const client = await openMigrationConnection(databaseUrl, { waitSeconds, say: progress });
  try {
    return await work(client, files, progress);
  } finally {
    await client.end();
  }
}

function wholeNumber(name: string, value: string): number {
  if (!/^\d{1,4}$/.test(value)) throw new Error(`${name} takes a whole number, not "${value}".`);
  return Number(value);
}

function table(rows: MigrationRow[]): string {
  const width = Math.max(0, ...rows.map((row) => row.name.length));
  return rows
    .map(
      (row) => `${row.name.padEnd(width)}  ${row.state.padEnd(12)}  ${row.appliedAt?.toISOString() ?? '-'}`,
    )
    .join('\n');
}

if (isEntry(import.meta.url)) {
  process.exitCode = await runMigrate(process.argv.slice(2), {
    env: commandEnvironment(),
    out: console.log,
    err: console.error,
  });
}
