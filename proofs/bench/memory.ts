// Goes with the example: src/features/orders
import { slopeOf } from '../../src/cli/monitor-growth.ts';
import { drive } from './drive.ts';
import type { Settings } from './read.ts';
import type { Report } from './report.ts';
import type { Usage } from './servers.ts';
import { startService } from './sides.ts';
import { TENANTS, type World } from './world.ts';

const SAMPLES = 40;
const MB = 2 ** 20;

/**
 * Memory of the service while idle and after many cached reads, and whether it still grows: the slope of the line
 * through the samples of the second half.
 */
export async function benchMemory(
  report: Report,
  world: World,
  { connections }: Settings,
  amount: number,
): Promise<void> {
  const server = await startService(world);
  const requests = await world.reads(TENANTS);
  const idle = await server.usage();
  const samples: { count: number; usage: Usage }[] = [];
  let count = 0;
  for (let sample = 0; sample < SAMPLES; sample++) {
    const done = await drive([server], { requests, connections, amount: Math.ceil(amount / SAMPLES) });
    count += done.count;
    samples.push({ count, usage: await server.usage() });
  }
  await server.stop();

  const late = samples.slice(SAMPLES / 2);
  const slope = (of: (usage: Usage) => number) =>
    slopeOf(late.map((sample) => ({ x: sample.count / 1e6, y: of(sample.usage) / MB })));
  const last = late.at(-1)?.usage;
  report.say(`\nMemory of the service, MB, after ${count} cached reads`);
  report.figure('resident while idle', idle.rssBytes / MB);
  report.figure('resident at the end', (last?.rssBytes ?? NaN) / MB, 0, 140);
  report.figure('largest resident', Math.max(...samples.map(({ usage }) => usage.rssBytes)) / MB, 0, 140);
  report.figure(
    'slope of the resident, per 10⁶ requests',
    slope(({ rssBytes }) => rssBytes),
    1,
  );
  report.figure(
    'slope of the heap in use, per 10⁶ requests',
    slope(({ heapBytes }) => heapBytes),
    1,
  );
}
