import { monitorEventLoopDelay } from 'node:perf_hooks';

/** Where the numbers come from; only service.ts touches the process itself. */
export type UsageSource = Pick<NodeJS.Process, 'cpuUsage' | 'memoryUsage'>;

export interface ProcessUsage {
  /** Of one core, over the last whole window; above 100 when garbage collection or zlib use others as well. */
  cpuPercent: number;
  rssBytes: number;
  heapUsedBytes: number;
  heapTotalBytes: number;
  /** How late the event loop was in 1 of 100 turns of the last whole window. */
  eventLoopP99Ms: number;
}

const WINDOW_MS = 10_000;
const RESOLUTION_MS = 20;

/**
 * What the process uses now. CPU and event loop are told for windows of ten seconds, whoever asks how
 * often: the histogram behind /metrics begins anew with each scrape and is for Prometheus alone.
 */
export function startProcessUsage(source: UsageSource) {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  delay.enable();
  let cpu = source.cpuUsage();
  let startedAtMs = performance.now();
  let last: ReturnType<typeof measure> | undefined;

  function measure() {
    const { user, system } = source.cpuUsage(cpu);
    const elapsedMs = performance.now() - startedAtMs;
    return {
      cpuPercent: (user + system) / 10 / elapsedMs,
      // What is recorded are the distances between turns, and without delay they are one resolution long.
      eventLoopP99Ms: Math.max(0, delay.percentile(99) / 1e6 - RESOLUTION_MS),
    };
  }

  const timer = setInterval(() => {
    last = measure();
    delay.reset();
    cpu = source.cpuUsage();
    startedAtMs = performance.now();
  }, WINDOW_MS);
  timer.unref();

  return {
    read(): ProcessUsage {
      const { rss: rssBytes, heapUsed: heapUsedBytes, heapTotal: heapTotalBytes } = source.memoryUsage();
      return { ...(last ?? measure()), rssBytes, heapUsedBytes, heapTotalBytes };
    },

    close(): void {
      clearInterval(timer);
      delay.disable();
    },
  };
}
