import type { Sample } from './monitor-samples.ts';

const TEN_MINUTES_MS = 600_000;
/** Memory that a process needs to get going is no growth. */
const WARM_UP_SHARE = 0.2;

export interface Point {
  x: number;
  y: number;
}

/** How the memory of each process goes over a watch. */
export function createGrowth() {
  const known = new Map<string, Point[]>();

  return {
    add(atMs: number, samples: Map<string, Sample>): void {
      for (const [place, { rssBytes }] of samples) {
        const points = known.get(place) ?? [];
        points.push({ x: atMs, y: rssBytes });
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

/** Slope of the line through points, by least squares; 0 of a single one. */
export function slopeOf(points: Point[]): number {
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [meanX, meanY] = [mean(points.map(({ x }) => x)), mean(points.map(({ y }) => y))];
  let [above, below] = [0, 0];
  for (const { x, y } of points) {
    above += (x - meanX) * (y - meanY);
    below += (x - meanX) ** 2;
  }
  return below === 0 ? 0 : above / below;
}
