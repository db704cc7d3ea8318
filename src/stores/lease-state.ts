/** Parts of a window. */
const CELLS = 120;

/** So many requests (or their costs) in any window. */
export interface Limit {
  /** What is limited: the name of its state in Redis. */
  id: string;
  max: number;
  windowMs: number;
}

export interface Lease {
  limit: Limit;
  /** Taken and not yet used; void from `until` on (ms of `now()`). */
  tokens: number;
  until: number;
  /** What Redis holds of the lease: its size, and its end on the server's clock. */
  size: number;
  ends: number;
  /** What this process admitted in the last window, oldest first; Redis knows of the first `told` parts. */
  used: { tokens: number; from: number; to: number }[];
  told: number;
  /** Left in Redis when it was last asked, and the moment of which it said that more comes. */
  left: number;
  moreAt: number;
  /** Requests of this cost and above are refused until `moreAt` without asking. */
  refusedCost: number;
  /** Asked of this process since it asked Redis, and the size that was good for the last lease. */
  demand: number;
  askedAt: number;
  wanted: number;
  /** The server's clock, and the moment before which it showed that. */
  serverTime: number;
  seenAt: number;
  waiting: { cost: number; answer: (error?: Error) => void }[];
  asking: boolean;
}

/** Of a small limit each token is asked for by itself, and its time is kept to the millisecond. */
export function isSmall(max: number): boolean {
  return max < 100;
}

/** Uses within so many ms count as one: a token may count longer than it must by that. */
export function cellMs({ max, windowMs }: Limit): number {
  return isSmall(max) ? 1 : Math.ceil(windowMs / CELLS);
}

export function openLease(limit: Limit, now: number): Lease {
  const empty = { tokens: 0, until: 0, size: 0, ends: 0, told: 0, moreAt: 0, demand: 0, wanted: 0 };
  const clock = { askedAt: now, serverTime: Number.MAX_SAFE_INTEGER / 2, seenAt: 0 };
  const rest = { left: limit.max, refusedCost: Infinity, asking: false };
  return { limit, ...empty, ...clock, ...rest, used: [], waiting: [] };
}

/** What is out by the old limit runs out by itself; what was refused may be admitted now. */
export function changeLimit(lease: Lease, max: number): void {
  const told = lease.used.length;
  Object.assign(lease, { limit: { ...lease.limit, max }, tokens: 0, size: 0, told, refusedCost: Infinity });
}

/** Adds to what this process admitted, which Redis learns with the next question; forgets what left the window. */
export function recordUse(lease: Lease, tokens: number, at: number): void {
  const { used, limit } = lease;
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

/** Takes the last use back, unless Redis was told of it. `leased`: it was paid from the lease. */
export function takeBack(lease: Lease, tokens: number, leased: boolean): void {
  const last = lease.used.length > lease.told ? lease.used.at(-1) : undefined;
  if (!last || last.tokens < tokens) return;
  last.tokens -= tokens;
  if (leased) lease.tokens += tokens;
}
