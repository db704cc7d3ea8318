// Goes with the example: src/features/orders
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const DEBIAN = '/usr/lib/postgresql';
const run = promisify(execFile);

/** `pgbench` on PATH, or where Debian's postgresql-contrib puts it; undefined when there is none. */
export async function findPgbench(): Promise<string | undefined> {
  const versions = existsSync(DEBIAN) ? readdirSync(DEBIAN).toSorted((a, b) => Number(b) - Number(a)) : [];
  const places = ['pgbench', ...versions.map((version) => join(DEBIAN, version, 'bin/pgbench'))];
  for (const place of places) {
    if (await run(place, ['--version']).catch(() => undefined)) return place;
  }
  return undefined;
}

/**
 * Transactions a second that pgbench gets from Postgres with some of these scripts, picked by chance, as prepared
 * statements over so many connections.
 */
export async function runPgbench(
  program: string,
  databaseUrl: string,
  scripts: string[],
  { connections, seconds }: { connections: number; seconds: number },
): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'pgbench-'));
  try {
    const files = scripts.map((text, index) => {
      const file = join(folder, `${index}.sql`);
      writeFileSync(file, text);
      return ['-f', file];
    });
    const pace = ['-c', String(connections), '-j', '1', '-T', String(Math.max(1, Math.round(seconds)))];
    const options = ['-n', '-M', 'prepared', ...pace, ...files.flat()];
    const { stdout } = await run(program, [...options, databaseUrl]).catch((error: { stderr?: string }) => {
      throw new Error(`pgbench failed: ${error.stderr?.split('\n', 1)[0]}`);
    });
    const perSecond = Number(/^tps = ([\d.]+)/m.exec(stdout)?.[1]);
    if (!(perSecond > 0)) throw new Error(`pgbench counted nothing: ${stdout}`);
    return perSecond;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A statement with its values in their places. pgbench takes `:word` for a variable, also inside of quotes. */
export function inline({ text, values = [] }: { text: string; values?: unknown[] }): string {
  const literal = (value: unknown) =>
    typeof value === 'number' ? String(value) : `'${String(value).replaceAll("'", "''")}'`;
  const sql = text.replaceAll(/\$(\d+)/g, (_, number: string) => literal(values[Number(number) - 1]));
  const escaped = sql.replaceAll(/'(?:[^']|'')*'/g, (quoted) =>
    /:[A-Za-z_]/.test(quoted) ? `U&${quoted.replaceAll(':', '\\003a')}` : quoted,
  );
  return `${escaped.replaceAll(/\s+/g, ' ')};\n`;
}
