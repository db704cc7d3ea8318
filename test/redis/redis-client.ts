/** For redis-topology.test.ts: opens each URL of its arguments and prints what came of it, a line each. */
import { pino } from 'pino';
import { createMetrics } from '../../src/observability/metrics.ts';
import { openRedis } from '../../src/redis/redis.ts';
import { until } from '../support/until.ts';

await Promise.all(process.argv.slice(2).map(report));

async function report(url: string): Promise<void> {
  const mends: string[] = [];
  const log = pino({}, { write: (line: string) => void mends.push(...[JSON.parse(line).mend ?? []].flat()) });
  const redis = openRedis(
    { url, commandTimeoutMs: 2000, role: 'limits' },
    { log, metrics: createMetrics('test') },
  );
  const subscription = redis.subscribe('news', { onMessage() {}, onGap() {} });
  await until('it works, or says why not', () => mends.length > 0 || (redis.ready() && subscription.live()));
  const written = await redis.client.set('key', 'value').catch(() => 'refused');
  process.stdout.write(`${JSON.stringify({ url, written, mends })}\n`);
  await redis.close();
}
