// Goes with the example: src/features/orders
import { settings } from './settings.js';

/**
 * Per type: seconds, and the rate as steps of [multiple of RATE to reach, share of the time]. The load is arrivals, so
 * a slow service gets as many requests as a fast one.
 */
const TYPES = {
  /** Does it work at all? Two arrivals a second. */
  smoke: { seconds: 30, steps: [[2 / settings.rate, 1]] },
  /** An ordinary day. */
  steady: { seconds: 300, steps: [[1, 1]] },
  /** More than planned, for a while. */
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
  /** Ten times the rate at once, and back. */
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
  /** Does memory grow? */
  soak: { seconds: 3600, steps: [[1, 1]] },
  /** Rises until a promise is missed. */
  breakpoint: { seconds: 600, from: 0.1, steps: [[20, 1]] },
  /** No load, but a test of the limits of a few keys. */
  limits: { seconds: settings.rounds * 62 + 20, steps: [] },
};

export const { type } = settings;
if (!TYPES[type]) throw new Error(`TEST_TYPE=${type} is none of ${Object.keys(TYPES).join(', ')}`);

const { seconds: standardSeconds, from, steps } = TYPES[type];
export const totalSeconds = settings.seconds && type !== 'limits' ? settings.seconds : standardSeconds;

/** Rates in iterations per second, times in seconds. */
export const stages = steps.map(([multiple, share]) => ({
  rate: multiple * settings.rate,
  seconds: share * totalSeconds,
}));
/** Undefined for a constant rate. */
export const startRate = from && from * settings.rate;
export const peakRate = Math.max(...stages.map(({ rate }) => rate), 1);

/** Requests are tagged with a slice of the time. There are 60 slices or a few more. */
export const sliceSeconds = Math.max(1, Math.ceil(totalSeconds / 60));
export const slices = Math.ceil(totalSeconds / sliceSeconds);

/** At first the cache is empty. */
export const warmUpSeconds = Math.min(30, 0.2 * totalSeconds);

/** Iterations per second that are due at a time. */
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
