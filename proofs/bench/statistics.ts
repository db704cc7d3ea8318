// Goes with the example: src/features/orders

/** What was measured in several rounds. */
export interface Spread {
  median: number;
  min: number;
  max: number;
  /** Ends of the interval that holds the true median in 95 of 100 such measurements. */
  low: number;
  high: number;
  rounds: number;
}

const ERROR = 0.05;

/**
 * Median, extremes, and the interval of the median by order statistics: of n rounds, each of which is as likely
 * above the true median as below it, k or fewer lie on one side of it with the probability of the binomial
 * distribution. It supposes nothing about the shape of the noise. Up to eight rounds it is all there is.
 */
export function spreadOf(samples: number[]): Spread {
  const sorted = samples.toSorted((a, b) => a - b);
  const rounds = sorted.length;
  const at = (index: number) => sorted[index] ?? NaN;
  const cut = cutOf(rounds);
  return {
    median: (at(Math.floor((rounds - 1) / 2)) + at(Math.ceil((rounds - 1) / 2))) / 2,
    min: at(0),
    max: at(rounds - 1),
    low: at(cut),
    high: at(rounds - 1 - cut),
    rounds,
  };
}

/** How many of the smallest, and of the largest, lie outside of the interval. */
function cutOf(rounds: number): number {
  // Of `below` rounds below the median: in how many ways, and the chance of so many or fewer.
  let [ways, chance, cut] = [1, 0, 0];
  for (let below = 0; below < rounds / 2; below++) {
    chance += ways / 2 ** rounds;
    if (2 * chance > ERROR) break;
    cut = below;
    ways = (ways * (rounds - below)) / (below + 1);
  }
  return cut;
}

/** `median (min–max)`. */
export function spread({ median, min, max }: Spread, digits: number): string {
  return `${median.toFixed(digits)} (${min.toFixed(digits)}–${max.toFixed(digits)})`;
}
