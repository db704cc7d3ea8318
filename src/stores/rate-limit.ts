import { LRUCache } from 'lru-cache';
import type { Logger } from 'pino';
import { inTime } from '../in-time.ts';
import type { Metrics } from '../metrics.ts';
import { changeLimit, openLease, recordUse, type Lease } from './lease-state.ts';
import { createLeases, type RunScript } from './lease.ts';
import { createLocalShare } from './local-share.ts';

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
export interface Verdict {
  admitted: boolean;
  /** Which of the leases that were passed it tells of. */
  index: number;
  /** The limit, and what is left of it as far as this process knows; 0 when refused. */
  max: number;
  left: number;
  /** Until the moment at which a refused request would be admitted, or at which more is left. */
  resetMs: number;
}

export type RateLimiter = ReturnType<typeof createRateLimiter>;

const REMEMBERED_SUBJECTS = 20_000;
const CLOSE_TIMEOUT_MS = 500;

/**
 * Limits by leases from Redis (lease.ts), or by this process's own share without Redis (local-share.ts):
 * no request fails, no limit disappears, and no request waits for longer than a command may take.
 */
export function createRateLimiter(options: RateLimiterOptions) {
  const { run, commandTimeoutMs, now = () => performance.now() } = options;
  const { rateLimitFallback } = options.metrics;
  const share = createLocalShare({ ...options, shared: run !== undefined, now });
  const leases = run && createLeases({ run, commandTimeoutMs, now, mostFor, onLoss: share.onLoss });
  const subjects: LRUCache<string, Lease>[] = [];

  function mostFor(lease: Lease): number {
    const at = now();
    return share.counts(lease.limit, at) ? share.rest(lease, at) : Infinity;
  }

  /** 0: it can be paid; undefined when Redis has to be asked. */
  function refusedMs(lease: Lease, cost: number, at: number): number | undefined {
    const byShare = share.counts(lease.limit, at) ? share.refusedMs(lease, cost, at) : 0;
    if (!leases || share.isAlone(at)) return byShare;
    const byLease = leases.refusedMs(lease, cost, at);
    return byShare > 0 ? Math.max(byShare, byLease ?? 0) : byLease;
  }

  /** Pays for all or for none; undefined when Redis has to be asked first. */
  function decide(open: Lease[], wanted: number, at: number): Verdict | undefined {
    let refused: Verdict | undefined;
    for (const [index, lease] of open.entries()) {
      const { max } = lease.limit;
      const resetMs = refusedMs(lease, Math.min(wanted, max), at);
      if (resetMs === undefined) return undefined;
      if (resetMs > (refused?.resetMs ?? 0)) refused = { admitted: false, index, max, left: 0, resetMs };
    }
    if (run && share.isAlone(at)) rateLimitFallback.inc();
    for (const lease of open) lease.demand += wanted;
    return refused ?? payAll(open, wanted, at);
  }

  function payAll(open: Lease[], wanted: number, at: number): Verdict {
    let closest: Verdict | undefined;
    for (const [index, lease] of open.entries()) {
      const { max, windowMs } = lease.limit;
      const cost = Math.min(wanted, max);
      if (leases && !share.isAlone(at)) leases.pay(lease, cost, at);
      else recordUse(lease, cost, at);
      const left = leftOf(lease, at);
      const resetMs = (lease.used[0]?.to ?? at) + windowMs - at;
      if (!closest || left < closest.left) closest = { admitted: true, index, max, left, resetMs };
    }
    return closest as Verdict;
  }

  function leftOf(lease: Lease, at: number): number {
    if (share.isAlone(at)) return share.rest(lease, at);
    return Math.min(lease.tokens + lease.left, mostFor(lease));
  }

  async function askAndDecide(open: Lease[], wanted: number): Promise<Verdict> {
    const since = performance.now();
    for (;;) {
      const questions = open.flatMap((lease) => ask(lease, Math.min(wanted, lease.limit.max), since));
      await Promise.all(questions).then(share.onAnswer, share.onFailure);
      const verdict = decide(open, wanted, now());
      if (verdict) return verdict;
    }
  }

  function ask(lease: Lease, cost: number, since: number): Promise<void>[] {
    const mustAsk = leases && refusedMs(lease, cost, now()) === undefined;
    return mustAsk ? [leases.refill(lease, cost, since)] : [];
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
    take(open: Lease[], cost: number): Verdict | Promise<Verdict> {
      return decide(open, cost, now()) ?? askAndDecide(open, cost);
    },

    /** Gives all leases back, as far as Redis listens within half a second. */
    async close(): Promise<void> {
      if (!leases) return;
      const open = subjects.flatMap((known) => [...known.values()]).filter(({ tokens }) => tokens > 0);
      const given = Promise.allSettled(open.map((lease) => leases.giveBack(lease)));
      await inTime(given, CLOSE_TIMEOUT_MS);
    },
  };
}
