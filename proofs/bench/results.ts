// Goes with the example: src/features/orders
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { arch, availableParallelism, cpus, platform, release, totalmem } from 'node:os';
import { format, resolveConfig } from 'prettier';
import type { Settings } from './read.ts';
import type { Results, Row } from './report.ts';
import { spread, type Spread } from './statistics.ts';
import type { World } from './world.ts';

const FOLDER = new URL('results/', import.meta.url);
const PAGE = new URL('../../docs/performance.md', import.meta.url);
const PACKAGES = ['fastify', 'pg', 'ioredis', 'pino', 'prom-client', 'zod', 'autocannon'];

/** One file of proofs/bench/results. */
interface Kept extends Results {
  '//': string;
  date: string;
  versions: Record<string, string>;
  machine: { cpu: string; cores: number; memoryGb: number; os: string };
  /** Of the run that measured each comparison last. */
  settings: Settings;
}

/**
 * Keeps what was measured in `proofs/bench/results/<date>-node<version>.json`, beside what other runs of that day put
 * there, and writes the table of docs/performance.md anew from the last file of each Node.
 */
export async function saveResults({ results }: { results: Results }, world: World, settings: Settings) {
  const date = new Date().toISOString().slice(0, 10);
  const file = new URL(`${date}-node${process.versions.node}.json`, FOLDER);
  const before = existsSync(file) ? read(file) : undefined;
  const kept: Kept = {
    '//': 'Goes with the example: src/features/orders',
    date,
    versions: await readVersions(world),
    machine: {
      cpu: cpus()[0]?.model.trim() ?? '',
      cores: availableParallelism(),
      memoryGb: Math.round(totalmem() / 2 ** 30),
      os: `${platform()} ${/^\d+\.\d+/.exec(release())?.[0]} ${arch()}`,
    },
    settings,
    comparisons: { ...before?.comparisons, ...results.comparisons },
    figures: { ...before?.figures, ...results.figures },
  };
  mkdirSync(FOLDER, { recursive: true });
  await write(
    file,
    JSON.stringify(kept, (_, value) => (typeof value === 'number' ? round(value) : value)),
  );
  await write(PAGE, withTable(readFileSync(PAGE, 'utf8')));
}

async function readVersions({ db, redis }: World): Promise<Record<string, string>> {
  const packages = PACKAGES.map((name) => {
    const { version } = JSON.parse(
      readFileSync(new URL(`../../node_modules/${name}/package.json`, import.meta.url), 'utf8'),
    ) as { version: string };
    return [name, version];
  });
  const { rows } = await db.query<{ server_version: string }>('show server_version');
  const { node, v8, openssl } = process.versions;
  return {
    node,
    v8,
    openssl,
    postgres: rows[0]?.server_version ?? '',
    redis: /^redis_version:(\S+)/m.exec(await redis.info('server'))?.[1] ?? '',
    ...Object.fromEntries(packages),
  };
}

function read(file: URL): Kept {
  return JSON.parse(readFileSync(file, 'utf8')) as Kept;
}

async function write(file: URL, text: string): Promise<void> {
  const path = file.pathname;
  writeFileSync(file, await format(text, { ...(await resolveConfig(path)), filepath: path }));
}

function round(value: number): number {
  return Number(value.toPrecision(4));
}

const MARKED = /(<!-- results:start -->)[\s\S]*(<!-- results:end -->)/;

function withTable(page: string): string {
  const latest = new Map<string, Kept>();
  for (const name of readdirSync(FOLDER).toSorted()) {
    const kept = read(new URL(name, FOLDER));
    latest.set(kept.versions.node?.split('.')[0] ?? '', kept);
  }
  return page.replace(MARKED, `$1\n\n${[...latest.values()].map(describe).join('\n\n')}\n\n$2`);
}

function describe({ date, versions, machine, comparisons, figures }: Kept): string {
  const { node, postgres, redis } = versions;
  const on = `${machine.cpu}, ${machine.cores} cores, ${machine.os}`;
  const tables = Object.entries(comparisons).map(([title, rows]) => `#### ${title}\n\n${tableOf(rows)}`);
  const numbers = Object.entries(figures).map(([name, value]) => `| ${name} | ${tell(value)} |`);
  return [
    `### Node ${node}`,
    `${date}, Postgres ${postgres}, Redis ${redis}; ${on}.`,
    ...tables,
    ...(numbers.length > 0 ? [['| Figure | Value |', '| --- | --- |', ...numbers].join('\n')] : []),
  ].join('\n\n');
}

function tableOf(rows: Row[]): string {
  const head = ['', 'CPU µs', 'per CPU s', 'per s', 'of the first', 'ours is × as fast', 'Redis commands'];
  const lines = rows.map(
    ({ name, cpuMicros, perCpuSecond, perSecond, ofFirst, oursTimes, redisCommands }) => [
      name,
      spread(cpuMicros, cpuMicros.median < 10 ? 2 : 1),
      perCpuSecond.toFixed(0),
      perSecond?.median.toFixed(0) ?? '',
      spread(ofFirst, 2),
      oursTimes ? spread(oursTimes, 2) : '',
      redisCommands?.toFixed(3) ?? '',
    ],
  );
  const used = head.flatMap((_, column) => (lines.some((line) => line[column] !== '') ? [column] : []));
  const toLine = (cells: string[]) => `| ${used.map((column) => cells[column]).join(' | ')} |`;
  return [toLine(head), toLine(head.map(() => '---')), ...lines.map(toLine)].join('\n');
}

function tell(value: number | Spread): string {
  if (typeof value !== 'number') return spread(value, value.median < 10 ? 2 : 0);
  return value.toFixed(Math.abs(value) < 10 ? 1 : 0);
}
