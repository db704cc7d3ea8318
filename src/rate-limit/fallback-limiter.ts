import type { Logger } from 'pino';
import type { Lease, Limit } from './lease-state.ts';
import { createIntervalWarning } from '../lib/log-interval.ts';
import { explainFailure } from '../redis/problems.ts';

export interface FallbackLimiterOptions {
  /** False: there is no Redis, and this process is alone for ever. */
  shared: boolean;
  /** Without Redis each process admits its share: limit / expected replicas. */
  expectedReplicas: number;
  log: Logger;
  now: () => number;
}

/** After a failure Redis is not asked for so long. */
const PAUSE_MS = 500;
/** All processes have found Redis again so long after the first. */
const RETURN_MS = 5_000;
/** of a command without a response in time: `withDeadline`, and ioredis. */
const SILENCE = /^(no response within|Command timed out)/;

/**
 * What one process may admit by its own count. Without Redis that is all there is. For a window after
 * Redis came back, or lost what it knew, the share holds beside the leases, so the way back has no burst.
 * One answer that does not come in time concerns the lease that asked, and no other.
 */
export function createFallbackLimiter({ shared, expectedReplicas, log, now }: FallbackLimiterOptions) {
  const warn = createIntervalWarning(log);
  let pausedUntil = shared ? -Infinity : Infinity;
  let degradedSince = -Infinity;

  function shareOf({ max }: Limit): number {
    return Math.max(1, Math.floor(max / expectedReplicas));
  }

  return {
    of: shareOf,

    /** Redis gave no answer, or an error: for a moment nobody asks it, or not for this lease. */
    onFailure(error: Error, lease: Lease): void {
      const at = now();
      const until = at + PAUSE_MS;
      Object.assign(lease, { degradedSince: at, pausedUntil: until });
      if (!SILENCE.test(error.message)) {
        degradedSince = at;
        pausedUntil = until;
      }
      if (at < pausedUntil)
        warn(
          { reason: error.message, mend: explainFailure(error) },
          'Redis is away: limits are kept per process',
        );
      else
        warn({ reason: error.message }, 'Redis was late: limits are kept per process for what it was asked');
    },

    /** Redis answers, and counts too little for a window. */
    onLoss(reason: string): void {
      degradedSince = now();
      warn({ reason }, 'Redis counts too little: limits are kept per process as well, for a window');
    },

    /** Redis is not asked now. */
    isPaused(lease: Lease, at: number): boolean {
      return at < pausedUntil || at < lease.pausedUntil;
    },

    /** The share counts whatever Redis says. */
    counts(lease: Lease, at: number): boolean {
      return !shared || at < Math.max(degradedSince, lease.degradedSince) + lease.limit.windowMs + RETURN_MS;
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
