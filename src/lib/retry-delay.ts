const LATE_MS = 50;

/** Whether a wait of `ms` that began at `from` ended so late that this process was asleep meanwhile. */
export function sleptSince(from: number, ms: number): boolean {
  return performance.now() - from > ms + LATE_MS;
}

/**
 * What `work` comes to, or an error after `ms`. The time begins anew when this process was asleep: what it
 * waits for may have come, and is there to be read.
 */
export async function within<T>(
  ms: number,
  work: Promise<T>,
  late = new Error(`no answer within ${Math.round(ms)} ms`),
): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const end = new Promise<never>((_, reject) => {
    const wait = (): void => {
      const from = performance.now();
      timer = setTimeout(() => {
        if (sleptSince(from, ms)) wait();
        else reject(late);
      }, ms);
    };
    wait();
  });
  return Promise.race([work, end]).finally(() => clearTimeout(timer));
}
