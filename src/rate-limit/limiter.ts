import { LRUCache } from 'lru-cache';
import type { Logger } from 'pino';
import { withTimeout } from '../lib/timeouts.ts';
import type { Metrics } from '../observability/metrics.ts';
import { changeLimit, openLease, recordUse, type Lease } from './lease-state.ts';
import { createLeases, TooLate, type RunScript } from './lease.ts';
import { createFallbackLimiter } from './fallback-limiter.ts';

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

/** What became of a request; of several limits it tells of the one that is closest. */
export interface RateLimitDecision {
  admitted: boolean;
  /** Which of the leases that were passed it tells of. */
  index: number;
  /** The limit that is meant, and the one that decided: where that is the share of this process, it is less. */
  limit: number;
  max: number;
  byShare: boolean;
  /** What is left as far as this process knows; 0 when refused. */
  left: number;
  /** Until a refused request would be admitted, or at which more is left. */
  resetMs: number;
}

export type RateLimiter = ReturnType<typeof createRateLimiter>;

const REMEMBERED_SUBJECTS = 20_000;
const CLOSE_TIMEOUT_MS = 500;

/**
 * Limits by leases from Redis (lease.ts), or by this process's own share without Redis (fallback-limiter.ts):
 * no request fails, no limit disappears, and no request waits for longer than a command may take.
 */
export function createRateLimiter(options: RateLimiterOptions) {
  const { run, commandTimeoutMs, now = () => performance.now() } = options;
  const { rateLimitFallback, rateLimitLocal } = options.metrics;
  const share = createFallbackLimiter({ ...options, shared: run !== undefined, now });
  const leases = run && createLeases({ run, commandTimeoutMs, now, mostFor, onLoss: share.onLoss });
  const subjects: LRUCache<string, Lease>[] = [];
  let shownLocal: boolean | undefined;
  showLocal(run === undefined);

  function mostFor(lease: Lease): number {
    const at = now();
    return share.counts(lease, at) ? share.rest(lease, at) : Infinity;
  }

  /** Of a refused request `resetMs` is above 0; undefined when Redis has to be asked, which nobody does who is `late`. */
  function check(lease: Lease, cost: number, at: number, late: boolean) {
    const byLease = leases?.refusedMs(lease, cost, at);
    const held = share.counts(lease, at);
    const isExclusive =
      byLease === undefined ? late || share.isPaused(lease, at) : held && share.isPaused(lease, at);
    const byShare = held || isExclusive ? share.refusedMs(lease, cost, at) : 0;
    if (isExclusive) return { resetMs: byShare, isExclusive, byShare: true };
    if (byShare > 0)
      return { resetMs: Math.max(byShare, byLease ?? 0), isExclusive, byShare: byShare >= (byLease ?? 0) };
    return byLease === undefined ? undefined : { resetMs: byLease, isExclusive, byShare: false };
  }

  /** Pays for all or for none; undefined when Redis has to be asked first. */
  function decide(open: Lease[], wanted: number, at: number, late = false): RateLimitDecision | undefined {
    let refused: RateLimitDecision | undefined;
    let fellBack = false;
    for (const [index, lease] of open.entries()) {
      const checked = check(lease, Math.min(wanted, lease.limit.max), at, late);
      if (checked === undefined) return undefined;
      fellBack ||= checked.isExclusive;
      const { resetMs, byShare } = checked;
      if (resetMs > (refused?.resetMs ?? 0))
        refused = { admitted: false, index, ...limitsOf(lease, byShare), left: 0, resetMs };
    }
    if (run && fellBack) rateLimitFallback.inc();
    for (const lease of open) lease.demand += wanted;
    const decision = refused ?? payAll(open, wanted, at);
    showLocal(decision.byShare);
    return decision;
  }

  function payAll(open: Lease[], wanted: number, at: number): RateLimitDecision {
    let closest: RateLimitDecision | undefined;
    for (const [index, lease] of open.entries()) {
      const { max, windowMs } = lease.limit;
      const cost = Math.min(wanted, max);
      const leased = leases !== undefined && leases.refusedMs(lease, cost, at) === 0;
      if (leased) leases.pay(lease, cost, at);
      else recordUse(lease, cost, at);
      const inRedis = leased ? lease.tokens + lease.left : Infinity;
      const inShare = !leased || share.counts(lease, at) ? share.rest(lease, at) : Infinity;
      const left = Math.min(inRedis, inShare);
      const resetMs = (lease.used[0]?.to ?? at) + windowMs - at;
      if (!closest || left < closest.left)
        closest = { admitted: true, index, ...limitsOf(lease, inShare <= inRedis), left, resetMs };
    }
    return closest as RateLimitDecision;
  }

  function limitsOf({ limit }: Lease, byShare: boolean) {
    return { limit: limit.max, max: byShare ? share.of(limit) : limit.max, byShare };
  }

  function showLocal(local: boolean): void {
    if (local !== shownLocal) rateLimitLocal.set(local ? 1 : 0);
    shownLocal = local;
  }

  async function askAndDecide(open: Lease[], wanted: number): Promise<RateLimitDecision> {
    const since = performance.now();
    for (;;) {
      await Promise.all(open.map((lease) => ask(lease, Math.min(wanted, lease.limit.max), since)));
      const late = performance.now() - since >= commandTimeoutMs;
      const decision = decide(open, wanted, now(), late);
      if (decision) return decision;
    }
  }

  async function ask(lease: Lease, cost: number, since: number): Promise<void> {
    if (!leases || check(lease, cost, now(), false) !== undefined) return;
    await leases.refill(lease, cost, since).catch((error: Error) => {
      if (!(error instanceof TooLate)) share.onFailure(error, lease);
    });
  }

  return {
    /** A limit per subject and window; `name` is part of the key in Redis. */
    rule(name: string, windowMs: number) {
      const known = new LRUCache<string, Lease>({ max: REMEMBERED_SUBJECTS });
      subjects.push(known);
      return (subject: string, max: number): Lease => {
        let lease = known.get(subject);
        if (lease === undefined) {
          lease = openLease({ id: `${name}:${subject}`, max, windowMs }, now());
          known.set(subject, lease);
        } else if (lease.limit.max !== max) {
          changeLimit(lease, max);
        }
        return lease;
      };
    },

    /** Pays `cost` (at most the whole limit) from all of them or from none; at once while the leases last. */
    take(open: Lease[], cost: number): RateLimitDecision | Promise<RateLimitDecision> {
      return decide(open, cost, now()) ?? askAndDecide(open, cost);
    },

    /** Gives all leases back, as far as Redis listens within half a second. */
    async close(): Promise<void> {
      if (!leases) return;
      const open = subjects.flatMap((known) => [...known.values()]).filter(({ tokens }) => tokens > 0);
      const given = Promise.allSettled(open.map((lease) => leases.giveBack(lease)));
      await withTimeout(given, CLOSE_TIMEOUT_MS);
    },
  };
}
