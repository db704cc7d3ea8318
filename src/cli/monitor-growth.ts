const TEN_MINUTES_MS = 600_000;
/** A process needs memory to get going, which is no growth. */
const WARM_UP_SHARE = 0.2;

export interface Point {
  x: number;
  y: number;
}

/**
 * How much more memory, in ten minutes, the process took that grew the most: the slope of the line through all
 * points (milliseconds and bytes), so that one moment says little.
 */
export function growthInTenMinutes(processes: Point[][]): number {
  const slopes = processes.map((points) => slopeOf(points.slice(WARM_UP_SHARE * points.length)));
  return Math.max(0, ...slopes) * TEN_MINUTES_MS;
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
