// Goes with the example: src/features/orders
import { settings } from './settings.js';

/**
 * Of each type: seconds, and how the rate goes: steps of [multiple of RATE that is reached, share of the time].
 * Arrivals, not users that wait for answers: a service that gets slow gets no fewer requests for it.
 */
const TYPES = {
  /** Does it work at all? Two a second. */
  smoke: { seconds: 30, steps: [[2 / settings.rate, 1]] },
  /** An ordinary day. */
  steady: { seconds: 300, steps: [[1, 1]] },
  /** More than it is made for, for a while. */
  stress: {
    seconds: 480,
    from: 0.1,
    steps: [
      [1, 0.125],
      [2, 0.375],
      [3, 0.375],
      [0.1, 0.125],
    ],
  },
  /** Ten times as much from one moment to the next, and back. */
  spike: {
    seconds: 160,
    from: 1,
    steps: [
      [1, 0.375],
      [10, 0.03],
      [10, 0.19],
      [1, 0.03],
      [1, 0.375],
    ],
  },
  /** Does it grow? */
  soak: { seconds: 3600, steps: [[1, 1]] },
  /** Up until it breaks. */
  breakpoint: { seconds: 600, from: 0.1, steps: [[20, 1]] },
  /** Not a load: what the limits of a few keys admit and say. */
  limits: { seconds: settings.rounds * 62 + 20, steps: [] },
};

export const { type } = settings;
if (!TYPES[type]) throw new Error(`TEST_TYPE=${type} is none of ${Object.keys(TYPES).join(', ')}`);

const { seconds: standardSeconds, from, steps } = TYPES[type];
export const totalSeconds = settings.seconds && type !== 'limits' ? settings.seconds : standardSeconds;

/** Rates in iterations a second, times in seconds. */
export const stages = steps.map(([multiple, share]) => ({
  rate: multiple * settings.rate,
  seconds: share * totalSeconds,
}));
/** Undefined for a rate that stays. */
export const startRate = from && from * settings.rate;
export const peakRate = Math.max(...stages.map(({ rate }) => rate), 1);

/** What is sent is told apart by parts of the time, of which there are 60 or a few more. */
export const sliceSeconds = Math.max(1, Math.ceil(totalSeconds / 60));
export const slices = Math.ceil(totalSeconds / sliceSeconds);

/** The cache is cold at first. */
export const warmUpSeconds = Math.min(30, 0.2 * totalSeconds);

/** Iterations a second that were due after so many seconds. */
export function rateAt(second) {
  let before = startRate || stages[0].rate;
  let left = second;
  for (const { rate, seconds } of stages) {
    if (left <= seconds) return startRate ? before + ((rate - before) * left) / seconds : rate;
    left -= seconds;
    before = rate;
  }
  return before;
}
