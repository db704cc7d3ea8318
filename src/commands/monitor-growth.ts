import type { Sample } from './monitor-samples.ts';

const TEN_MINUTES_MS = 600_000;
/** Memory that a process needs to get going is no growth. */
const WARM_UP_SHARE = 0.2;

/** How the memory of each process goes over a watch. */
export function createGrowth() {
  const known = new Map<string, { atMs: number; bytes: number }[]>();

  return {
    add(atMs: number, samples: Map<string, Sample>): void {
      for (const [place, { rssBytes: bytes }] of samples) {
        const points = known.get(place) ?? [];
        points.push({ atMs, bytes });
        known.set(place, points);
      }
    },

    /** Of the process that grew the most; the slope of the line through what was seen, so that one look says little. */
    mbInTenMinutes(): number {
      const slopes = [...known.values()].map((points) =>
        slopeOf(points.slice(WARM_UP_SHARE * points.length)),
      );
      return (Math.max(0, ...slopes) * TEN_MINUTES_MS) / 1e6;
    },
  };
}

/** Least squares, in bytes a millisecond. */
function slopeOf(points: { atMs: number; bytes: number }[]): number {
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [atMs, bytes] = [mean(points.map((each) => each.atMs)), mean(points.map((each) => each.bytes))];
  let [above, below] = [0, 0];
  for (const point of points) {
    above += (point.atMs - atMs) * (point.bytes - bytes);
    below += (point.atMs - atMs) ** 2;
  }
  return below === 0 ? 0 : above / below;
}
