/** One admitted request: when, on a clock that all processes share, and what it counted for. */
export interface Admission {
  atMs: number;
  cost: number;
}

/** The most that any window (x, x + windowMs] admitted, by costs. */
export function mostInAnyWindow(admissions: Admission[], windowMs: number): number {
  const sorted = admissions.toSorted((a, b) => a.atMs - b.atMs);
  let most = 0;
  let sum = 0;
  let oldest = 0;
  for (const { atMs, cost } of sorted) {
    sum += cost;
    while ((sorted[oldest] as Admission).atMs <= atMs - windowMs) sum -= (sorted[oldest++] as Admission).cost;
    most = Math.max(most, sum);
  }
  return most;
}
