import { parseArgs } from 'node:util';
import type { Client } from 'pg';
import { loadMigrationUrl } from '../config/config.ts';
import { openMigrationConnection, type Say } from '../migrations/connection.ts';
import {
  createMigrationFile,
  MIGRATIONS_FOLDER,
  readMigrationFiles,
  type MigrationFile,
} from '../migrations/files.ts';
import { applyPending, readMigrationRows, revertNewest, waitUntilApplied } from '../migrations/migrations.ts';
import { commandEnvironment, isEntry } from './environment.ts';
import { formatTable } from './table.ts';

const USAGE = `Usage: npm run migrate -- COMMAND [--wait SECONDS]

  up            apply every pending migration
  down [N]      revert the newest one, or the newest N
  wait          wait until another process has applied all of them; for --wait SECONDS
  status        list all migrations and their state; --json for machines
  new NAME      write the next numbered file, NAME such as add_customer

The database is DATABASE_MIGRATION_URL or else DATABASE_URL (or the file named by either with _FILE),
reached directly: a PgBouncer in transaction mode loses the migration lock.
--wait: how long a server may take to start, and others to apply; 30 seconds by default.`;

export interface MigrateOptions {
  databaseUrl: string;
  /** Progress, a line at a time. */
  say?: Say;
  /** How long the server may take to start. */
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
export async function migrateUp(options: MigrateOptions): Promise<string[]> {
  return withDatabase(options, applyPending);
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

/** Returns what is left to print at the end. */
async function execute(
  args: string[],
  { env, out, err, folder = MIGRATIONS_FOLDER }: Terminal,
): Promise<string> {
  const { positionals, values } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      wait: { type: 'string', default: '30' },
      json: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  });
  const [command = '', argument, ...rest] = positionals;
  const takesArgument = command === 'down' || command === 'new';
  if (values.help) return USAGE;
  if (rest.length > 0 || (argument !== undefined && !takesArgument)) throw new Error(USAGE);
  const waitSeconds = wholeNumber('--wait', values.wait);
  const target = (say: Say) => ({ databaseUrl: loadMigrationUrl(env), waitSeconds, say, folder });

  switch (command) {
    case 'up': {
      const applied = await migrateUp(target(out));
      return applied.length === 0 ? 'Nothing to apply.' : `${applied.length} applied.`;
    }
    case 'down': {
      const count = wholeNumber('down', argument ?? '1');
      const reverted = await withDatabase(target(out), (client, files, options) =>
        revertNewest(client, files, count, options),
      );
      return reverted.length === 0 ? 'Nothing to revert.' : `${reverted.length} reverted.`;
    }
    case 'wait':
      await withDatabase(target(out), waitUntilApplied);
      return 'Everything is applied.';
    case 'status': {
      const migrations = await withDatabase(target(err), readMigrationRows);
      if (values.json) return JSON.stringify({ migrations }, null, 2);
      return formatTable(
        migrations.map(({ name, state, appliedAt }) => [name, state, appliedAt?.toISOString() ?? '-']),
      );
    }
    case 'new':
      if (argument !== undefined) return createMigrationFile(folder, argument);
  }
  throw new Error(USAGE);
}

async function withDatabase<T>(
  { databaseUrl, say = () => undefined, waitSeconds = 30, folder = MIGRATIONS_FOLDER }: MigrateOptions,
  work: (client: Client, files: MigrationFile[], options: { say: Say; waitSeconds: number }) => Promise<T>,
): Promise<T> {
  const files = readMigrationFiles(folder);
  const client = await openMigrationConnection(databaseUrl, { waitSeconds, say });
  try {
    return await work(client, files, { say, waitSeconds });
  } finally {
    await client.end();
  }
}

function wholeNumber(name: string, value: string): number {
  if (!/^\d{1,4}$/.test(value)) throw new Error(`${name} takes a whole number, not "${value}".`);
  return Number(value);
}

if (isEntry(import.meta.url)) {
  process.exitCode = await runMigrate(process.argv.slice(2), {
    env: commandEnvironment(),
    out: console.log,
    err: console.error,
  });
}
