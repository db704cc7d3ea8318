import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { Status } from './schema.ts';

/** Where the numbers come from; only main.ts touches the process itself. */
export type UsageSource = Pick<NodeJS.Process, 'cpuUsage' | 'memoryUsage'>;

const WINDOW_MS = 10_000;
const RESOLUTION_MS = 20;

/**
 * What the process uses now. CPU and event loop are measured in windows of ten seconds, however often they are read:
 * the histogram behind /metrics begins anew with each scrape and is for Prometheus alone.
 */
export function startProcessUsage(source: UsageSource) {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  delay.enable();
  let begin = { cpu: source.cpuUsage(), atMs: performance.now() };
  let last: ReturnType<typeof measure> | undefined;

  function measure() {
    const { user, system } = source.cpuUsage(begin.cpu);
    return {
      cpu_percent: toTenths((user + system) / 10 / (performance.now() - begin.atMs)),
      // The distances between turns are recorded, and without delay they are one resolution long.
      event_loop_p99_ms: toTenths(Math.max(0, delay.percentile(99) / 1e6 - RESOLUTION_MS)),
    };
  }

  const timer = setInterval(() => {
    last = measure();
    delay.reset();
    begin = { cpu: source.cpuUsage(), atMs: performance.now() };
  }, WINDOW_MS);
  timer.unref();

  return {
    read(): Status['process'] {
      const { rss, heapUsed, heapTotal } = source.memoryUsage();
      const memory = { rss_bytes: rss, heap_used_bytes: heapUsed, heap_total_bytes: heapTotal };
      return { ...(last ?? measure()), ...memory };
    },

    close(): void {
      clearInterval(timer);
      delay.disable();
    },
  };
}

export function toTenths(value: number): number {
  return Math.round(10 * value) / 10;
}
