import { cellMs, isSmall, recordUse, type Lease } from './lease-state.ts';

/**
 * A limit of L requests in any window, exact over all processes and mostly paid in memory:
 *
 *   process A               Redis: tokens, and until when they count        process B
 *      | take 40 ------------> [40 until now + life + window]                   |
 *      | spend 1, 1, 1 …       [40][20 until …] <----------------------- take 20|
 *      | "3 not used" -------> [20 …][37 until they were used + window]         |
 *      | take 1 …              full: "more at M" -------------> refuse until M, |
 *                                                               ask nobody      |
 *
 * A token leaves Redis before it is used, and counts there until it can no longer have been used in
 * the window: while its lease is out, for the life of the lease and a window more; once the process
 * has told what it used, for a window from then on. So any window holds at most L, whatever a process
 * does, crash included. A process takes what it uses in a part of the window, and at most half of
 * what is free: leases shrink to one as the limit comes near.
 */

/** Runs LEASE_SCRIPT; resolves to [granted, ends, left, waitMs, serverTime, lost]. */
export type RunScript = (id: string, args: number[]) => Promise<number[]>;
export type Leases = ReturnType<typeof createLeases>;

/** Parts of a window: a lease lives for one and holds what is used in one; a longer one while a third is free. */
const LIVES = { scarce: 12, plenty: 5 };
const SHORTEST_LIFE_MS = 500;
/** Who was refused waits until this part of the limit is free: one question for many requests. */
const BATCHES = 12;
const LARGEST_BATCH = 1000;

export function createLeases(options: {
  run: RunScript;
  commandTimeoutMs: number;
  now: () => number;
  /** The largest lease that is of use. */
  mostFor: (lease: Lease) => number;
  /** Redis lost what it counted, or its clock was moved: for a window it counts too little. */
  onLoss: (reason: string) => void;
}) {
  const { run, commandTimeoutMs, now, mostFor, onLoss } = options;

  async function serve(lease: Lease): Promise<void> {
    lease.asking = true;
    while (lease.waiting.length > 0) {
      const waiting = lease.waiting.splice(0);
      const costs = waiting.map(({ cost }) => cost);
      const sum = costs.reduce((total, cost) => total + cost);
      try {
        await ask(lease, Math.min(...costs), Math.min(sum, mostFor(lease)));
        // At once, before the next question takes back what they leave.
        for (const { answer } of waiting) answer();
      } catch (error) {
        for (const { answer } of [...waiting, ...lease.waiting.splice(0)]) answer(error as Error);
      }
    }
    lease.asking = false;
  }

  async function ask(lease: Lease, least: number, waiting: number): Promise<void> {
    const { windowMs, max, id } = lease.limit;
    const small = isSmall(max);
    const sentAt = now();
    const part = windowMs / (3 * lease.left > max ? LIVES.plenty : LIVES.scarce);
    const life = Math.ceil(Math.max(part, SHORTEST_LIFE_MS, 2 * commandTimeoutMs));
    const usual = Math.ceil((lease.demand * life) / Math.max(1, sentAt - lease.askedAt));
    const wanted = small ? 0 : Math.min(usual, 2 * lease.wanted + waiting, mostFor(lease));
    const batch = small ? 1 : Math.min(Math.floor(max / BATCHES), LARGEST_BATCH);
    const terms = [windowMs, life, cellMs(lease.limit), max, least, wanted, waiting, batch];
    const settled = [lease.ends, lease.size];
    for (const { tokens, to } of lease.used.slice(lease.told)) settled.push(tokens, Math.floor(sentAt - to));
    // Whatever becomes of the question, these tokens are no longer ours.
    Object.assign(lease, { tokens: 0, size: 0, told: lease.used.length, demand: 0, askedAt: sentAt, wanted });

    // A clock may run a little fast, and the question may take its time.
    const latest = lease.serverTime + 1.001 * (sentAt - lease.seenAt) + commandTimeoutMs;
    let reply = await run(id, [...terms, Math.ceil(latest), ...settled]);
    if (reply[0] === -1) {
      onLoss('its clock was set forward');
      reply = await run(id, [...terms, Number.MAX_SAFE_INTEGER, ...settled]);
    }
    const [granted = 0, ends = 0, left = 0, waitMs = 0, serverTime = 0, lost = 0] = reply;
    if (lost) onLoss('it lost what it had counted');
    Object.assign(lease, { tokens: granted, size: granted, ends, until: sentAt + life, left });
    Object.assign(lease, { moreAt: now() + waitMs, refusedCost: left < least ? least : Infinity });
    Object.assign(lease, { serverTime, seenAt: sentAt });
  }

  return {
    /** From memory: true (admitted, paid), false (refused) or undefined (only `refill` can tell). */
    spend(lease: Lease, cost: number, at: number): boolean | undefined {
      lease.demand += cost;
      if (lease.tokens < cost) return cost >= lease.refusedCost && at < lease.moreAt ? false : undefined;
      if (at >= lease.until) return undefined;
      lease.tokens -= cost;
      recordUse(lease, cost, at);
      return true;
    },

    /** Asks Redis, once for all who wait. At `answer` `spend` is worth another try, at once; an error: Redis failed. */
    refill(lease: Lease, cost: number, answer: (error?: Error) => void): void {
      lease.waiting.push({ cost, answer });
      if (!lease.asking) void serve(lease);
    },

    /** Tells Redis what was not used: another process may need it. */
    async giveBack(lease: Lease): Promise<void> {
      if (lease.size > 0 && !lease.asking) await ask(lease, lease.limit.max + 1, 0);
    },
  };
}
