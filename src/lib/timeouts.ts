/** A timer that is so late was held up with its process. */
const LATE_MS = 50;

/** Resolves to undefined on timeout. Later rejections are ignored. */
export async function withTimeout<T>(work: Promise<T>, timeoutMs: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), timeoutMs);
  });
  return Promise.race([work, timeout]).finally(() => clearTimeout(timer));
}

/** Whether a wait of `ms` that began at `from` ended so late that this process was suspended meanwhile. */
export function wasSuspended(from: number, ms: number): boolean {
  return performance.now() - from > ms + LATE_MS;
}

/**
 * Rejects with `late` after `ms`. The time begins anew if this process was suspended: the result may have come, and
 * is still to be read.
 */
export async function withDeadline<T>(
  ms: number,
  work: Promise<T>,
  late = new Error(`no response within ${Math.round(ms)} ms`),
): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const end = new Promise<never>((_, reject) => {
    const wait = (): void => {
      const from = performance.now();
      timer = setTimeout(() => (wasSuspended(from, ms) ? wait() : reject(late)), ms);
    };
    wait();
  });
  return Promise.race([work, end]).finally(() => clearTimeout(timer));
}
