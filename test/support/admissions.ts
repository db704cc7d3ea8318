/** One admitted request: when, on a clock that all processes share, and what it counted for. */
export interface Admission {
  atMs: number;
  /** When it was asked for, where the answer may be noted late: it was admitted between the two. */
  fromMs?: number;
  cost: number;
}

/** The most that any window (x, x + windowMs] admitted for certain, by costs. */
export function mostInAnyWindow(admissions: Admission[], windowMs: number): number {
  const asked = ({ atMs, fromMs = atMs }: Admission) => fromMs;
  const byEnd = admissions.toSorted((a, b) => a.atMs - b.atMs);
  const byStart = admissions.toSorted((a, b) => asked(a) - asked(b));
  let most = 0;
  let sum = 0;
  let oldest = 0;
  for (const { atMs, cost } of byEnd) {
    sum += cost;
    for (let first = byStart[oldest]; first && asked(first) <= atMs - windowMs; first = byStart[++oldest])
      sum -= first.cost;
    most = Math.max(most, sum);
  }
  return most;
}
