/** Parts of a window. */
export const CELLS = 120;

/** So many requests (or their costs) in any window. */
export interface Limit {
  /** What is limited: the name of its state in Redis. */
  id: string;
  max: number;
  windowMs: number;
}

/** What one process knows of one limit. Times are of its own clock unless told otherwise. */
export interface Lease {
  limit: Limit;
  /** Taken and not yet used; void from `until` on. */
  tokens: number;
  until: number;
  /** What Redis holds of the lease: its size, and its end on the server's clock (µs). */
  size: number;
  ends: number;
  /** Since when Redis remembers: another number means that it forgot. */
  epoch: number;
  /** What this process admitted in the last window, oldest first; Redis knows of the first `told` parts. */
  used: { tokens: number; from: number; to: number }[];
  told: number;
  /** The last use that Redis counts, by what it was told or by the lease. */
  countedTo: number;
  /** Left in Redis when it was last asked. */
  left: number;
  /** Until when requests of a cost are refused without asking. */
  refused: Map<number, number>;
  /** Offered to this process since it asked Redis, and what it wanted for that when it did. */
  demand: number;
  wanted: number;
  askedAt: number;
  /** When it sent the last question that was answered, and the server's clock (µs) some time after that. */
  answeredAt: number;
  serverTime: number;
  /** A question was not answered: not asked again until `pausedUntil`; the share counts beside since `degradedSince`. */
  pausedUntil: number;
  degradedSince: number;
  waiting: Waiter[];
  asking: boolean;
}

/** A request that waits for an answer of Redis. */
export interface Waiter {
  cost: number;
  since: number;
  resolve: () => void;
  reject: (error: Error) => void;
}

/** Of a small limit each token is asked for by itself, and its time is kept to the millisecond. */
export function isSmall(max: number): boolean {
  return max < 100;
}

/** Uses within so many ms count as one: a token may count longer than it must by that. */
export function cellMs({ max, windowMs }: Limit): number {
  return isSmall(max) ? 1 : Math.ceil(windowMs / CELLS);
}

/** A limit of which nothing is known yet. */
export function openLease(limit: Limit, now: number): Lease {
  return {
    limit,
    tokens: 0,
    until: 0,
    size: 0,
    ends: 0,
    epoch: 0,
    used: [],
    told: 0,
    countedTo: -Infinity,
    left: limit.max,
    refused: new Map(),
    demand: 0,
    wanted: 0,
    askedAt: now,
    answeredAt: now,
    serverTime: Number.MAX_SAFE_INTEGER / 2,
    pausedUntil: -Infinity,
    degradedSince: -Infinity,
    waiting: [],
    asking: false,
  };
}

/** What is out by the old limit runs out by itself; what was refused may be admitted now. */
export function changeLimit(lease: Lease, max: number): void {
  const told = lease.used.length;
  Object.assign(lease, { limit: { ...lease.limit, max }, tokens: 0, size: 0, told, refused: new Map() });
}

/**
 * Adds to what this process admitted, which Redis learns with the next question; forgets what left the window, and
 * what was refused: what is used now may count together with what that waits for, and for as long.
 */
export function recordUse(lease: Lease, tokens: number, at: number): void {
  const { used, limit, refused } = lease;
  if (refused.size > 0) refused.clear();
  while (used[0] && used[0].to <= at - limit.windowMs) {
    used.shift();
    if (lease.told > 0) lease.told--;
  }
  const last = used.length > lease.told ? used.at(-1) : undefined;
  if (last && at - last.from < cellMs(limit)) {
    last.tokens += tokens;
    last.to = at;
  } else {
    used.push({ tokens, from: at, to: at });
  }
}
