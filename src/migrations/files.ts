import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The migrations of this release. Two levels up from here both in src/migrations and in dist/migrations. */
export const MIGRATIONS_FOLDER = fileURLToPath(new URL('../../migrations/', import.meta.url));

export interface MigrationSection {
  sql: string;
  /** The line of the file on which `sql` begins, from 1. */
  firstLine: number;
  transaction: boolean;
}

export interface MigrationFile {
  /** Without `.sql`: `0001_api_key`. Holds only digits, lower case letters and `_`. */
  name: string;
  /** SHA-256 in hex of the text, as `readText` gives it. */
  checksum: string;
  up: MigrationSection;
  down: MigrationSection;
}

/**
 * The names of the migrations in a folder, oldest first. Files that do not end in `.sql` are ignored.
 * Throws on a name that breaks the pattern and on a number used twice (two branches that were merged).
 */
export function listMigrationNames(folder: string): string[] {
  const fileNames = readdirSync(folder)
    .filter((fileName) => fileName.endsWith('.sql') && !fileName.startsWith('.'))
    .toSorted();
  for (const [index, fileName] of fileNames.entries()) {
    if (!/^\d{4}_[a-z][a-z0-9_]{0,59}\.sql$/.test(fileName)) {
      throw new Error(`migrations/${fileName}: a name looks like 0005_add_customer.sql.`);
    }
    const previous = fileNames[index - 1];
    if (previous?.slice(0, 4) === fileName.slice(0, 4)) {
      throw new Error(
        `migrations/${previous} and migrations/${fileName} have the same number: renumber one.`,
      );
    }
  }
  return fileNames.map((fileName) => fileName.slice(0, -'.sql'.length));
}

/** The newest migration that this release ships. Reads a folder: call it once, at the start. */
export function findNewestMigration(): string {
  const newest = listMigrationNames(MIGRATIONS_FOLDER).at(-1);
  if (newest === undefined) throw new Error(`No migration in ${MIGRATIONS_FOLDER}`);
  return newest;
}

/** Reads every migration of a folder, oldest first. Throws on the first one that is not well formed. */
export function readMigrationFiles(folder: string): MigrationFile[] {
  return listMigrationNames(folder).map((name) => {
    const text = readText(join(folder, `${name}.sql`));
    const [up, down] = [findMarker(text, 'Up', name), findMarker(text, 'Down', name)];
    if (down < up) throw new Error(`migrations/${name}.sql: "-- Up Migration" comes first.`);
    const checksum = createHash('sha256').update(text).digest('hex');
    return { name, checksum, up: cutSection(text, up, down), down: cutSection(text, down) };
  });
}

/** Writes the next numbered file with both markers and returns its path. Throws on a bad or used name. */
export function createMigrationFile(folder: string, name: string): string {
  if (!/^[a-z][a-z0-9_]{0,59}$/.test(name)) {
    throw new Error('A name is 1 to 60 lower case letters, digits and "_", such as add_customer.');
  }
  const path = nextMigrationPath(folder, name);
  writeFileSync(path, TEMPLATE, { flag: 'wx' });
  return path;
}

/** Where the next migration belongs. */
export function nextMigrationPath(folder: string, name: string): string {
  const number = Number.parseInt(listMigrationNames(folder).at(-1) ?? '0') + 1;
  return join(folder, `${String(number).padStart(4, '0')}_${name}.sql`);
}

/** The text without what an editor or a checkout on Windows changes. Not more: a blank may stand in a literal. */
function readText(path: string): string {
  const text = readFileSync(path, 'utf8').replace(/^\uFEFF/, '');
  return `${text.replaceAll('\r\n', '\n').trimEnd()}\n`;
}

function findMarker(text: string, direction: 'Up' | 'Down', name: string): number {
  const marker = new RegExp(`^-- ${direction} Migration( \\(no transaction\\))?$`, 'gm');
  const [first, second] = text.matchAll(marker);
  if (first && !second) return first.index;
  throw new Error(`migrations/${name}.sql: the line "-- ${direction} Migration" must be there exactly once.`);
}

function cutSection(text: string, start: number, end?: number): MigrationSection {
  const sql = text.slice(start, end);
  const firstLine = text.slice(0, start).split('\n').length;
  return { sql, firstLine, transaction: !/^-- \w+ Migration \(no/.test(sql) };
}

const TEMPLATE = `-- Why this change is needed, for a reader in a hurry.
--
-- The release before this one runs on the new schema during a rollout: add first, remove one release
-- later. Lock waits end after 2 s and statements after 60 s; "set local statement_timeout" raises that
-- for this file. A "create index concurrently" needs a file of its own, both of whose markers read
-- "Migration (no transaction)", with one statement under each.

-- Up Migration


-- Down Migration
-- What is lost when this is reverted.

`;
