// Goes with the example: src/features/orders
import type { Report } from './report.ts';
import { startService } from './sides.ts';
import { TENANTS, type World } from './world.ts';

const RUNS = 9;

/** How long the service takes from its start as a process to the answer to its first authorised read. */
export async function benchStart(report: Report, world: World): Promise<void> {
  const [first] = await world.reads(TENANTS);
  const times: number[] = [];
  for (let run = 0; run < RUNS; run++) {
    const from = performance.now();
    const server = await startService(world);
    const { status } = await fetch(`${server.url}${first?.path}`, { headers: first?.headers ?? {} });
    if (status !== 200) throw new Error(`the first request was answered ${status}`);
    times.push(performance.now() - from);
    await server.stop();
  }
  report.say();
  report.figure('start to first 200, ms', times, 0, 800);
}
