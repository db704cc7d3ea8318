// Goes with the example: src/features/orders
import { createMetrics } from '../../src/observability/metrics.ts';
import type { Report } from './report.ts';
import { ownMicros } from './rounds.ts';

const ROUNDS = 15;
const REQUESTS = 200_000;

/**
 * What all metrics of a cached authorised read cost together: the count and the latency that the end of the
 * answer records, and the count of the cache.
 */
export async function benchMetrics(report: Report): Promise<void> {
  const { requests, requestLatency, cacheRequests } = createMetrics('bench');
  const labels = { method: 'GET', route: '/v1/orders/:id' };
  const costs: number[] = [];
  for (let round = -1; round < ROUNDS; round++) {
    const cost = await ownMicros(REQUESTS, () => {
      for (let i = 0; i < REQUESTS; i++) {
        cacheRequests.inc({ result: 'hit' });
        requestLatency.observe({ ...labels }, (i % 100) / 1000);
        requests.inc({ ...labels, status: 200 });
      }
    });
    if (round >= 0) costs.push(cost);
  }
  report.say();
  report.figure('all metrics of a request, µs of CPU', costs, 2, 3);
}
