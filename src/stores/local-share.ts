import type { Logger } from 'pino';
import type { Metrics } from '../metrics.ts';
import type { Lease, Limit } from './lease-state.ts';
import { createIntervalWarning } from './log-interval.ts';

export interface LocalShareOptions {
  /** False: there is no Redis, and this process is alone for ever. */
  shared: boolean;
  /** Without Redis each process admits its share: limit / expected replicas. */
  expectedReplicas: number;
  log: Logger;
  metrics: Metrics;
  now: () => number;
}

/** After a failure Redis is left alone for so long: a frozen one costs few requests their patience, not each. */
const PAUSE_MS = 500;
/** All processes have found Redis again so long after the first. */
const RETURN_MS = 5_000;

/**
 * What one process may admit by its own count. Without Redis that is all there is. For a window after
 * Redis came back, or lost what it knew, the share holds beside the leases, so the way back has no burst.
 */
export function createLocalShare({ shared, expectedReplicas, log, metrics, now }: LocalShareOptions) {
  const warn = createIntervalWarning(log);
  let pausedUntil = shared ? -Infinity : Infinity;
  let troubledAt = -Infinity;
  metrics.rateLimitLocal.set(shared ? 0 : 1);

  function shareOf({ max }: Limit): number {
    return Math.max(1, Math.floor(max / expectedReplicas));
  }

  return {
    /** Redis gave no answer: for a moment nobody asks it. */
    onFailure(error: Error): void {
      troubledAt = now();
      pausedUntil = troubledAt + PAUSE_MS;
      metrics.rateLimitLocal.set(1);
      warn({ reason: error.message }, 'Redis is away: limits are kept per process');
    },

    /** Redis answers, and counts too little for a window. */
    onLoss(reason: string): void {
      troubledAt = now();
      warn({ reason }, 'Redis counts too little: limits are kept per process as well, for a window');
    },

    onAnswer(): void {
      metrics.rateLimitLocal.set(0);
    },

    /** Only the share counts. */
    isAlone(at: number): boolean {
      return at < pausedUntil;
    },

    /** The share counts, too. */
    counts({ windowMs }: Limit, at: number): boolean {
      return at < pausedUntil || at < troubledAt + windowMs + RETURN_MS;
    },

    /** For how many ms the share refuses a request; 0: it does not. A cost above the share is admitted once a window. */
    refusedMs({ limit, used }: Lease, cost: number, at: number): number {
      const share = shareOf(limit);
      let sum = cost;
      for (let i = used.length - 1; i >= 0; i--) {
        const { tokens, to } = used[i] as (typeof used)[number];
        if (to <= at - limit.windowMs) break;
        sum += tokens;
        if (sum > share) return to + limit.windowMs - at;
      }
      return 0;
    },

    /** What of the share is not used up. */
    rest({ limit, used }: Lease, at: number): number {
      let rest = shareOf(limit);
      for (const { tokens, to } of used) if (to > at - limit.windowMs) rest -= tokens;
      return Math.max(0, rest);
    },
  };
}
