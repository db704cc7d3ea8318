import { lookup } from 'node:dns/promises';
import type { Status } from '../features/status/schema.ts';

/** What one process reports of itself at one moment; counters since its start. */
export interface Sample {
  requests: number;
  /** Responses of status 500 and above. */
  failures: number;
  /** Connections to Postgres that failed. */
  connectionErrors: number;
  /** Cumulative counts by upper bound in seconds. */
  latency: Map<number, number>;
  status: Status;
}

/** What happened between two moments. */
export interface Period {
  requests: number;
  failures: number;
  connectionErrors: number;
  /** Seconds, the upper bound of the bucket; undefined without requests. */
  p95: number | undefined;
}

const TIMEOUT_MS = 2_000;

/** Reads every process behind the names of the URLs, by address. Those that do not respond are missing. */
export async function readSamples(urls: URL[]): Promise<Map<string, Sample>> {
  const samples = new Map<string, Sample>();
  const readName = async ({ hostname, port, protocol }: URL) => {
    const found = await lookup(hostname, { all: true }).catch(() => []);
    const places = found.map(({ address, family }) => `${family === 6 ? `[${address}]` : address}:${port}`);
    const readPlace = async (place: string) => samples.set(place, await readSample(`${protocol}//${place}`));
    await Promise.allSettled(places.map(readPlace));
  };
  await Promise.all(urls.map(readName));
  return samples;
}

async function readSample(base: string): Promise<Sample> {
  const get = async (path: string) => {
    const response = await fetch(base + path, { signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!response.ok) throw new Error(`${path} responded ${response.status}`);
    return response.text();
  };
  const [metrics, status] = await Promise.all([get('/metrics'), get('/internal/status')]);
  const sum = (series: RegExp) =>
    [...metrics.matchAll(series)].reduce((total, [, value]) => total + Number(value), 0);
  const latency = new Map<number, number>();
  const bucket = /^api_request_latency_seconds_bucket\{.*le="([^"]+)".*\} (\S+)$/gm;
  for (const [, bound, count] of metrics.matchAll(bucket)) {
    const le = bound === '+Inf' ? Infinity : Number(bound);
    latency.set(le, (latency.get(le) ?? 0) + Number(count));
  }
  return {
    requests: sum(/^api_requests_total\{.*\} (\S+)$/gm),
    failures: sum(/^api_requests_total\{.*status="5.*\} (\S+)$/gm),
    connectionErrors: sum(/^db_connection_errors_total (\S+)$/gm),
    latency,
    status: JSON.parse(status),
  };
}

/** A process that was started in between counts from zero. */
export function compareSamples(before: Map<string, Sample>, after: Map<string, Sample>): Period {
  const period = { requests: 0, failures: 0, connectionErrors: 0 };
  const latency = new Map<number, number>();
  for (const [place, now] of after) {
    const known = before.get(place);
    const then = known && known.requests <= now.requests ? known : undefined;
    for (const name of ['requests', 'failures', 'connectionErrors'] as const)
      period[name] += now[name] - (then?.[name] ?? 0);
    for (const [le, count] of now.latency)
      latency.set(le, (latency.get(le) ?? 0) + count - (then?.latency.get(le) ?? 0));
  }
  const total = latency.get(Infinity) ?? 0;
  const bounds = [...latency].toSorted(([a], [b]) => a - b);
  const p95 = total > 0 ? bounds.find(([, count]) => count >= 0.95 * total)?.[0] : undefined;
  return { ...period, p95 };
}

export const HEADING =
  'time      processes   req/s    5xx %   P95 ms   pool %    hit %   rss MB  database      cache';

/** The line of one moment; of several processes the worst. */
export function describe(
  samples: Map<string, Sample>,
  { requests, failures, p95 }: Period,
  seconds: number,
): string {
  const all = [...samples.values()].map(({ status }) => status);
  const worst = (pick: typeof Math.max, read: (status: Status) => number | null) => {
    const known = all.map(read).filter((value) => value !== null);
    return known.length === 0 ? '-' : pick(...known).toFixed(0);
  };
  const states = (read: (status: Status) => string) => [...new Set(all.map(read))].join('/');
  const numbers = [
    (requests / seconds).toFixed(1),
    requests === 0 ? '-' : ((100 * failures) / requests).toFixed(2),
    p95 === undefined ? '-' : String(1000 * p95),
    worst(Math.max, ({ database }) => database.pool_utilization_percent),
    worst(Math.min, ({ cache }) => cache.hit_rate_percent),
    worst(Math.max, ({ process }) => process.rss_bytes / 1e6),
  ];
  return [
    new Date().toISOString().slice(11, 19).padEnd(10),
    String(samples.size).padStart(9),
    numbers[0]?.padStart(8),
    ...numbers.slice(1).map((text) => text.padStart(9)),
    `  ${states(({ database }) => database.state)}`.padEnd(16),
    states(({ redis }) => redis.cache),
  ].join('');
}
