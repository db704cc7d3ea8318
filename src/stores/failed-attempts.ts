import { LRUCache } from 'lru-cache';

const WINDOW_MS = 60_000;
const REMEMBERED_ADDRESSES = 50_000;

export type FailedAttempts = ReturnType<typeof createFailedAttempts>;

/**
 * Counts failed authentications per client address, in this process alone: the guess of a 178-bit
 * secret is hopeless anyway, what is bounded here is the work that guessing makes. Attempts still
 * being looked up count too, so that a burst in parallel finds no gap.
 */
export function createFailedAttempts(perMinute: number) {
  const failures = new LRUCache<string, { count: number; resetAt: number }>({ max: REMEMBERED_ADDRESSES });
  const inFlight = new Map<string, number>();

  function current(address: string): { count: number; resetAt: number } | undefined {
    const entry = failures.get(address);
    return entry && entry.resetAt > Date.now() ? entry : undefined;
  }

  return {
    /** Seconds until the next attempt is welcome, or 0 when it is now. */
    blockedForSeconds(address: string): number {
      const entry = current(address);
      const count = (entry?.count ?? 0) + (inFlight.get(address) ?? 0);
      if (count < perMinute) return 0;
      return entry ? Math.max(1, Math.ceil((entry.resetAt - Date.now()) / 1000)) : 1;
    },

    fail(address: string): void {
      const entry = current(address);
      if (entry) entry.count++;
      else failures.set(address, { count: 1, resetAt: Date.now() + WINDOW_MS });
    },

    /** Counts the address as trying while `work` runs. */
    async during<T>(address: string, work: () => Promise<T>): Promise<T> {
      inFlight.set(address, (inFlight.get(address) ?? 0) + 1);
      try {
        return await work();
      } finally {
        const left = (inFlight.get(address) ?? 1) - 1;
        if (left > 0) inFlight.set(address, left);
        else inFlight.delete(address);
      }
    },
  };
}
