import { lookup } from 'node:dns/promises';

/** What one process said of itself at one moment; counters since its start. */
export interface Sample {
  requests: number;
  /** Answers of status 500 and above. */
  failures: number;
  /** Cumulative counts by upper bound in seconds. */
  latency: Map<number, number>;
  /** Connections to Postgres that failed. */
  connectionErrors: number;
  database: string;
  cache: string;
  poolPercent: number;
  hitPercent: number | null;
  rssBytes: number;
}

const TIMEOUT_MS = 2_000;

/** Asks every process behind the names of the URLs, by address; those that do not answer are missing in the result. */
export async function readSamples(urls: URL[]): Promise<Map<string, Sample>> {
  const samples = new Map<string, Sample>();
  const ofName = async ({ hostname, port, protocol }: URL) => {
    const found = await lookup(hostname, { all: true }).catch(() => []);
    const places = found.map(({ address, family }) => `${family === 6 ? `[${address}]` : address}:${port}`);
    await Promise.all(
      places.map(async (place) => {
        const sample = await readSample(`${protocol}//${place}`).catch(() => undefined);
        if (sample) samples.set(place, sample);
      }),
    );
  };
  await Promise.all(urls.map(ofName));
  return samples;
}

async function readSample(base: string): Promise<Sample> {
  const get = async (path: string) => {
    const response = await fetch(base + path, { signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!response.ok) throw new Error(`${path} answered ${response.status}`);
    return response.text();
  };
  const [metrics, text] = await Promise.all([get('/metrics'), get('/internal/status')]);
  const status = JSON.parse(text) as {
    database: { state: string; pool_utilization_percent: number };
    cache: { hit_rate_percent: number | null };
    redis: { cache: string };
    process: { rss_bytes: number };
  };
  const sample: Sample = {
    requests: 0,
    failures: 0,
    latency: new Map(),
    connectionErrors: Number(/^db_connection_errors_total (\S+)/m.exec(metrics)?.[1] ?? 0),
    database: status.database.state,
    cache: status.redis.cache,
    poolPercent: status.database.pool_utilization_percent,
    hitPercent: status.cache.hit_rate_percent,
    rssBytes: status.process.rss_bytes,
  };
  for (const [, name, labels = '', value] of metrics.matchAll(/^(\w+)\{([^}]*)\} (\S+)/gm)) {
    if (name === 'api_requests_total') {
      sample.requests += Number(value);
      if (/status="5/.test(labels)) sample.failures += Number(value);
    } else if (name === 'api_request_latency_seconds_bucket') {
      const bound = /le="([^"]+)"/.exec(labels)?.[1];
      const le = bound === '+Inf' ? Infinity : Number(bound);
      sample.latency.set(le, (sample.latency.get(le) ?? 0) + Number(value));
    }
  }
  return sample;
}

export interface Period {
  requests: number;
  failures: number;
  connectionErrors: number;
  /** Seconds, the upper bound of the bucket; undefined without requests. */
  p95: number | undefined;
}

/** What happened between two looks; a process that was started in between counts from zero. */
export function compareSamples(before: Map<string, Sample>, after: Map<string, Sample>): Period {
  const period = { requests: 0, failures: 0, connectionErrors: 0 };
  const latency = new Map<number, number>();
  for (const [address, now] of after) {
    const known = before.get(address);
    const then = known && known.requests <= now.requests ? known : undefined;
    period.requests += now.requests - (then?.requests ?? 0);
    period.failures += now.failures - (then?.failures ?? 0);
    period.connectionErrors += now.connectionErrors - (then?.connectionErrors ?? 0);
    for (const [le, count] of now.latency) {
      latency.set(le, (latency.get(le) ?? 0) + count - (then?.latency.get(le) ?? 0));
    }
  }
  const total = latency.get(Infinity) ?? 0;
  const bounds = [...latency].toSorted(([a], [b]) => a - b);
  const p95 = total > 0 ? bounds.find(([, count]) => count >= 0.95 * total)?.[0] : undefined;
  return { ...period, p95 };
}
