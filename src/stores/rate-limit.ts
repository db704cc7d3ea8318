import { LRUCache } from 'lru-cache';
import type { Logger } from 'pino';
import { setTimeout as delay } from 'node:timers/promises';
import type { Metrics } from '../metrics.ts';
import { changeLimit, openLease, recordUse, takeBack, type Lease, type Limit } from './lease-state.ts';
import { createLeases, type Leases, type RunScript } from './lease.ts';
import { createIntervalWarning } from './log-interval.ts';

export interface RateLimiterOptions {
  /** Asks Redis for all processes together; undefined without Redis. */
  run: RunScript | undefined;
  commandTimeoutMs: number;
  /** Without Redis each process admits its share: limit / expected replicas. */
  expectedReplicas: number;
  log: Logger;
  metrics: Metrics;
  /** A clock that never goes back, in ms. */
  now?: () => number;
}

export interface Verdict {
  admitted: boolean;
  /** The limit, and what is left of it as far as this process knows; 0 when refused. */
  max: number;
  left: number;
  /** Until the moment at which a refused request would be admitted, or at which more is left. */
  resetMs: number;
}

export type RateLimiter = ReturnType<typeof createRateLimiter>;
export type RateLimitRule = ReturnType<RateLimiter['rule']>;

const REMEMBERED_SUBJECTS = 50_000;
/** After a failure Redis is left alone for so long: a frozen one costs few requests their patience, not each. */
const PAUSE_MS = 500;
/** All processes have found Redis again so long after the first. */
const RETURN_MS = 5_000;
const CLOSE_TIMEOUT_MS = 500;

/**
 * Limits by leases from Redis (lease.ts). Without Redis no request fails and no limit disappears: this
 * process then admits its share, counting what it admitted by leases before. For a window after Redis
 * came back, or lost what it knew, both have to agree, so the way back has no burst.
 */
export function createRateLimiter(options: RateLimiterOptions) {
  const { run, commandTimeoutMs, expectedReplicas, log, metrics, now = () => performance.now() } = options;
  const leases = run && createLeases({ run, commandTimeoutMs, now, mostFor, onLoss });
  const subjects: LRUCache<string, Lease>[] = [];
  const warn = createIntervalWarning(log);
  let pausedUntil = -Infinity;
  let troubledAt = -Infinity;
  metrics.rateLimitLocal.set(run ? 0 : 1);

  function onLoss(reason: string): void {
    troubledAt = now();
    warn({ reason }, 'Redis counts too little: limits are kept per process as well, for a window');
  }

  function onFailure(error: Error): void {
    troubledAt = now();
    pausedUntil = troubledAt + PAUSE_MS;
    metrics.rateLimitLocal.set(1);
    warn({ reason: error.message }, 'Redis is away: limits are kept per process');
  }

  function inTrouble({ windowMs }: Limit, at: number): boolean {
    return at < troubledAt + windowMs + RETURN_MS;
  }

  function mostFor(lease: Lease): number {
    const at = now();
    return inTrouble(lease.limit, at) ? Math.max(0, restOfShare(lease, at)) : Infinity;
  }

  function restOfShare({ limit, used }: Lease, at: number): number {
    let rest = share(limit.max);
    for (const { tokens, to } of used) if (to > at - limit.windowMs) rest -= tokens;
    return rest;
  }

  /** By this process's own count; undefined when it is within its share. */
  function refuseOverShare({ limit, used }: Lease, cost: number, at: number): Verdict | undefined {
    const max = share(limit.max);
    let sum = cost;
    for (let i = used.length - 1; i >= 0; i--) {
      const { tokens, to } = used[i] as (typeof used)[number];
      if (to <= at - limit.windowMs) break;
      sum += tokens;
      if (sum > max) return { admitted: false, max: limit.max, left: 0, resetMs: to + limit.windowMs - at };
    }
    return undefined;
  }

  function admitHere(lease: Lease, cost: number, at: number): Verdict {
    if (run) metrics.rateLimitFallback.inc();
    const refused = refuseOverShare(lease, cost, at);
    if (refused) return refused;
    recordUse(lease, cost, at);
    return admitted(lease, at, restOfShare(lease, at));
  }

  /** Undefined when Redis has to be asked. */
  function decide(leases: Leases, lease: Lease, cost: number, at: number): Verdict | undefined {
    if (at < pausedUntil) return admitHere(lease, cost, at);
    const refused = inTrouble(lease.limit, at) ? refuseOverShare(lease, cost, at) : undefined;
    if (refused) return refused;
    const paid = leases.spend(lease, cost, at);
    if (paid) return admitted(lease, at, Math.min(lease.tokens + lease.left, mostFor(lease)));
    if (paid === undefined) return undefined;
    return { admitted: false, max: lease.limit.max, left: 0, resetMs: lease.moreAt - at };
  }

  function askAndDecide(leases: Leases, lease: Lease, cost: number): Promise<Verdict> {
    return new Promise((resolve) => {
      const tryAgain = (error?: Error) => {
        if (error) onFailure(error);
        else metrics.rateLimitLocal.set(0);
        const verdict = decide(leases, lease, cost, now());
        if (verdict) resolve(verdict);
        else leases.refill(lease, cost, tryAgain);
      };
      leases.refill(lease, cost, tryAgain);
    });
  }

  function admitted({ limit, used }: Lease, at: number, left: number): Verdict {
    const oldest = used[0]?.to ?? at;
    return { admitted: true, max: limit.max, left, resetMs: oldest + limit.windowMs - at };
  }

  function share(max: number): number {
    return Math.max(1, Math.floor(max / expectedReplicas));
  }

  return {
    /** A limit per subject and window; `name` is part of the key in Redis. */
    rule(name: string, windowMs: number) {
      const known = new LRUCache<string, Lease>({ max: REMEMBERED_SUBJECTS });
      subjects.push(known);

      function leaseOf(subject: string, max: number): Lease {
        let lease = known.get(subject);
        if (lease === undefined) {
          lease = openLease({ id: `${name}:${subject}`, max, windowMs }, now());
          known.set(subject, lease);
        } else if (lease.limit.max !== max) {
          changeLimit(lease, max);
        }
        return lease;
      }

      return {
        /** Pays `wanted` (at most the whole limit) for the subject; at once while a lease lasts. */
        take(subject: string, max: number, wanted: number): Verdict | Promise<Verdict> {
          const lease = leaseOf(subject, max);
          const cost = Math.min(wanted, max);
          if (!leases) return admitHere(lease, cost, now());
          return decide(leases, lease, cost, now()) ?? askAndDecide(leases, lease, cost);
        },

        /** For a request that another limit refused. What Redis was told meanwhile stays paid. */
        refund(subject: string, cost: number): void {
          const lease = known.peek(subject);
          if (lease) takeBack(lease, cost, leases !== undefined && now() >= pausedUntil);
        },
      };
    },

    /** Gives all leases back, as far as Redis listens within half a second. */
    async close(): Promise<void> {
      const open = subjects.flatMap((known) => [...known.values()]).filter(({ tokens }) => tokens > 0);
      const given = Promise.allSettled(open.map((lease) => leases?.giveBack(lease)));
      await Promise.race([given, delay(CLOSE_TIMEOUT_MS, undefined, { ref: false })]);
    },
  };
}
