import type { AlertHistory, AlertWatch } from './watch.ts';

/** One alert that a fault must raise. Moments are those of `performance.now()`. */
export interface Row {
  fault: string;
  alert: string;
  severity: string;
  /** False where the first alert of the fault may silence it. */
  isTold: boolean;
  beganAtMs: number;
  undoneAtMs: number;
}

/** When it began to fire: at that moment or later, or before, if it fires all the time since. */
export function firedAt(watch: AlertWatch, row: Omit<Row, 'undoneAtMs'>): number | undefined {
  const changes = watch.find(row.alert, row.severity)?.changes ?? [];
  const first = changes.find(({ firing, atMs }) => firing && atMs >= row.beganAtMs);
  const last = changes.findLast(({ atMs }) => atMs < row.beganAtMs);
  return last?.firing ? last.atMs : first?.atMs;
}

/** Undefined while it fires, and while somebody who was told of it does not know better. */
export function resolvedAfterMs(watch: AlertWatch, row: Row): number | undefined {
  const history = watch.find(row.alert, row.severity);
  if (!history || history.changes.at(-1)?.firing || history.told.at(-1)?.firing) return undefined;
  const resolved = history.changes.find(({ firing, atMs }) => !firing && atMs >= row.beganAtMs);
  return resolved && Math.max(0, resolved.atMs - row.undoneAtMs);
}

/** The table, and one line of counts. Returns how many alerts were silent, reached nobody, or did not resolve. */
export function printReport(watch: AlertWatch, rows: Row[]): number {
  const cells = rows.map((row) => describe(watch, row));
  const heads = { fault: 'Fault', alert: 'Alert', fired: 'Fired', told: 'Told', resolved: 'Resolved' };
  console.log();
  printTable([heads, ...cells]);

  const expected = new Set(rows.map(({ alert, severity }) => `${alert} ${severity}`));
  const others = watch.all().filter((history) => isOther(history, expected));
  const names = others.map(({ name, severity }) => `${name} (${severity})`);
  console.log(`\nAlso fired: ${names.join(', ') || 'nothing'}`);
  const failed = cells.filter(
    ({ fired, told, resolved }) => fired === SILENT || told === UNTOLD || resolved === LASTING,
  ).length;
  console.log(`${cells.length - failed} passed, ${failed} failed`);
  return failed;
}

const SILENT = 'SILENT';
const UNTOLD = 'NOBODY';
const LASTING = 'NOT RESOLVED';

function describe(
  watch: AlertWatch,
  row: Row,
): Record<'fault' | 'alert' | 'fired' | 'told' | 'resolved', string> {
  const fired = firedAt(watch, row);
  const resolved = resolvedAfterMs(watch, row);
  // A later message belongs to a later fault.
  const overAtMs = row.undoneAtMs + (resolved ?? Infinity);
  // What fired before and never stopped may have been told before.
  const fromMs = Math.min(row.beganAtMs, fired ?? Infinity);
  const told = watch
    .find(row.alert, row.severity)
    ?.told.find(({ firing, atMs }) => firing && atMs >= fromMs && atMs <= overAtMs);
  return {
    fault: row.fault,
    alert: `${row.alert} (${row.severity})`,
    fired: fired === undefined ? SILENT : whenOf(fired - row.beganAtMs),
    told: told
      ? `${told.receiver}, ${whenOf(told.atMs - row.beganAtMs)}`
      : row.isTold
        ? UNTOLD
        : 'nobody: its cause was',
    resolved: resolved === undefined ? LASTING : whenOf(resolved),
  };
}

function isOther({ name, severity, changes }: AlertHistory, expected: Set<string>): boolean {
  return changes.length > 0 && severity !== 'info' && !expected.has(`${name} ${severity}`);
}

function printTable(rows: Record<string, string>[]): void {
  const columns = Object.keys(rows[0] ?? {});
  const widths = columns.map((name) => Math.max(...rows.map((row) => (row[name] ?? '').length)));
  for (const row of rows) {
    const cells = columns.map((name, index) => (row[name] ?? '').padEnd(widths[index] ?? 0));
    console.log(cells.join('  ').trimEnd());
  }
}

function whenOf(ms: number): string {
  return ms < 0 ? 'before' : `after ${seconds(ms)}`;
}

export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
