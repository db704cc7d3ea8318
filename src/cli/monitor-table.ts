import type { Period, Sample } from './monitor-samples.ts';

export const HEADING =
  'time      processes   req/s    5xx %   P95 ms   pool %    hit %   rss MB  database      cache';

/** The line of one look; of several processes the worst. */
export function describe(
  samples: Map<string, Sample>,
  { requests, failures, p95 }: Period,
  seconds: number,
): string {
  const all = [...samples.values()];
  const worst = (values: (number | null)[], pick: (...numbers: number[]) => number) => {
    const known = values.filter((value) => value !== null);
    return known.length === 0 ? '-' : pick(...known).toFixed(0);
  };
  const cells = [
    new Date().toISOString().slice(11, 19).padEnd(10),
    String(samples.size).padStart(9),
    (requests / seconds).toFixed(1).padStart(8),
    (requests === 0 ? '-' : ((100 * failures) / requests).toFixed(2)).padStart(9),
    (p95 === undefined ? '-' : String(1000 * p95)).padStart(9),
    worst(
      all.map(({ poolPercent }) => poolPercent),
      Math.max,
    ).padStart(9),
    worst(
      all.map(({ hitPercent }) => hitPercent),
      Math.min,
    ).padStart(9),
    worst(
      all.map(({ rssBytes }) => rssBytes / 1e6),
      Math.max,
    ).padStart(9),
    `  ${[...new Set(all.map(({ database }) => database))].join('/')}`.padEnd(16),
    [...new Set(all.map(({ cache }) => cache))].join('/'),
  ];
  return cells.join('');
}
