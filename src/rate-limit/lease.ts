import { setImmediate as nextTurn } from 'node:timers/promises';
import { cellMs, isSmall, recordUse, type Lease } from './lease-state.ts';
import { wasSuspended, withDeadline } from '../lib/timeouts.ts';

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
 * what is free: leases shrink as the limit comes near.
 */

/** Runs LEASE_SCRIPT; resolves to [granted, ends, left, waitMs, serverTime, epoch]. */
export type RunScript = (id: string, args: number[]) => Promise<number[]>;

/** Parts of a window: a lease lives for one and holds what is used in one; a longer one while a third is free. */
const LIVES = { scarce: 12, plenty: 5 };
const SHORTEST_LIFE_MS = 500;
/** Of two clocks that count the same time. */
const CLOCK_DRIFT = 1.001;
/** Who was refused waits until this part of the limit is free: one question for many requests. */
const BATCHES = 16;
const LARGEST_BATCH = 1000;

/** Those who waited had little time left for this question: that says nothing of Redis, whose answer still counts. */
export class TooLate extends Error {}

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

  /** One question for all who wait with the same cost. */
  async function serve(lease: Lease): Promise<void> {
    lease.asking = true;
    for (let first = lease.waiting[0]; first; first = lease.waiting[0]) {
      const { cost, since } = first;
      const served = lease.waiting.filter((waiter) => waiter.cost === cost);
      lease.waiting = lease.waiting.filter((waiter) => waiter.cost !== cost);
      try {
        const leftMs = Math.max(1, since + commandTimeoutMs - performance.now());
        const work = askTwice(lease, cost, served.length * cost);
        await withDeadline(leftMs, work, leftMs < commandTimeoutMs / 2 ? new TooLate() : undefined);
        // Those who came meanwhile look, too: they may know enough by now.
        for (const { resolve } of [...served, ...lease.waiting.splice(0)]) resolve();
      } catch (error) {
        for (const { reject } of [...served, ...lease.waiting.splice(0)]) reject(error as Error);
      }
      // They spend it before the next question takes back what they leave.
      await nextTurn();
    }
    lease.asking = false;
  }

  /** A timeout that came late means that this process was asleep, and the answer there, unread: once more. */
  async function askTwice(lease: Lease, cost: number, sum: number): Promise<void> {
    const from = performance.now();
    await ask(lease, cost, sum).catch((error: unknown) => {
      if (!wasSuspended(from, commandTimeoutMs)) throw error;
      return ask(lease, cost, sum);
    });
  }

  async function ask(lease: Lease, cost: number, sum: number): Promise<void> {
    const { limit, epoch, size, ends, used, told } = lease;
    const { windowMs, max, id } = limit;
    const sentAt = now();
    const life = lifeOf(lease);
    const most = mostFor(lease);
    const waiting = Math.max(cost, Math.min(sum, most));
    const usual = Math.ceil((lease.demand * life) / Math.max(1, sentAt - lease.askedAt));
    const wanted = isSmall(max) ? 0 : Math.min(usual, 2 * lease.wanted + waiting, most);
    const batch = isSmall(max) ? 1 : Math.min(Math.floor(max / BATCHES), LARGEST_BATCH);
    const { answeredAt, serverTime: knownTime } = lease;
    // A clock may run a little fast, and the question may take its time.
    const latest = () =>
      Math.ceil(knownTime + 1000 * (CLOCK_DRIFT * (now() - answeredAt) + commandTimeoutMs));
    const terms = [windowMs, life, cellMs(limit), max, cost, wanted, waiting, batch];
    const settled = [epoch, ends, size];
    const lastUse = used.at(-1)?.to ?? -Infinity;
    for (const { tokens, to } of used.slice(told)) settled.push(tokens, sentAt - to);
    // Whatever becomes of the question, these tokens are no longer ours.
    Object.assign(lease, { tokens: 0, size: 0, told: used.length, demand: 0, askedAt: sentAt, wanted });

    let reply = await run(id, [...terms, latest(), ...settled]);
    // A question that was late itself, as on a busy machine, says nothing about the clock.
    if (reply[0] === -1) reply = await run(id, [...terms, latest(), ...settled]);
    if (reply[0] === -1) {
      onLoss('its clock was set forward');
      reply = await run(id, [...terms, Number.MAX_SAFE_INTEGER, ...settled]);
    }
    const [granted = 0, grantEnds = 0, left = 0, waitMs = 0, serverTime = 0, newEpoch = 0] = reply;
    const mustKnow = now() < lease.countedTo + windowMs / CLOCK_DRIFT || (size > 0 && serverTime < ends);
    if (mustKnow && newEpoch !== epoch) onLoss('it lost what it had counted');
    lease.countedTo = Math.max(lease.countedTo, lastUse);
    if (lease.askedAt !== sentAt) return;
    Object.assign(lease, { serverTime, answeredAt: sentAt, epoch: newEpoch, left });
    if (lease.limit !== limit) return;
    Object.assign(lease, { tokens: granted, size: granted, ends: grantEnds, until: sentAt + life });
    // What is granted now, moves the moment at which others could be paid.
    if (granted > 0) lease.refused.clear();
    for (const other of lease.refused.keys()) if (other <= left) lease.refused.delete(other);
    if (left < cost) lease.refused.set(cost, now() + waitMs);
  }

  /** Tokens of a small limit are used when they come; then the shortest that the question may take will do. */
  function lifeOf({ limit: { max, windowMs }, left }: Lease): number {
    if (isSmall(max)) return 2 * commandTimeoutMs;
    const part = windowMs / (3 * left > max ? LIVES.plenty : LIVES.scarce);
    return Math.ceil(Math.max(part, SHORTEST_LIFE_MS, 2 * commandTimeoutMs));
  }

  return {
    /** What would become of a request, from memory: 0 (can be paid), the ms for which it is refused, or undefined (ask). */
    refusedMs({ tokens, until, refused }: Lease, cost: number, at: number): number | undefined {
      if (cost <= tokens) return at < until ? 0 : undefined;
      const refusedUntil = refused.get(cost) ?? -Infinity;
      return at < refusedUntil ? refusedUntil - at : undefined;
    },

    /** Only when `refusedMs` is 0. */
    pay(lease: Lease, cost: number, at: number): void {
      lease.tokens -= cost;
      lease.countedTo = at;
      recordUse(lease, cost, at);
    },

    /**
     * Asks Redis, once for all who wait. Then, in the same turn, look again; rejects when Redis failed, and
     * at the latest when the command timeout has passed `since` (of performance.now()).
     */
    refill(lease: Lease, cost: number, since: number): Promise<void> {
      return new Promise((resolve, reject) => {
        lease.waiting.push({ cost, since, resolve, reject });
        if (!lease.asking) void serve(lease);
      });
    },

    /** Tells Redis what was not used: another process may need it. */
    async giveBack(lease: Lease): Promise<void> {
      if (lease.size > 0 && !lease.asking) await ask(lease, lease.limit.max + 1, 0);
    },
  };
}
