// Goes with the example: src/features/orders

/**
 * Arrival rates, not users that wait for answers: a service that gets slow gets no fewer requests for it. Rates are
 * requests a second; users bound how many may wait at once.
 */
const RATE = Number(__ENV.RATE || 100);
const USERS = Number(__ENV.USERS || 50);

const constant = (rate, duration) => ({
  executor: 'constant-arrival-rate',
  rate,
  timeUnit: '1s',
  duration,
  preAllocatedVUs: USERS,
  maxVUs: 4 * USERS,
});
const ramping = (stages, startRate = RATE / 10) => ({
  executor: 'ramping-arrival-rate',
  startRate,
  timeUnit: '1s',
  stages: stages.map(([target, duration]) => ({ target, duration })),
  preAllocatedVUs: USERS,
  maxVUs: 8 * USERS,
});

const TYPES = {
  /** Does it work at all? */
  smoke: () => constant(2, __ENV.DURATION || '30s'),
  /** An ordinary day. */
  steady: () => constant(RATE, __ENV.DURATION || '5m'),
  /** More than it is made for, for a while. */
  stress: () =>
    ramping([
      [RATE, '1m'],
      [2 * RATE, '3m'],
      [3 * RATE, '3m'],
      [RATE / 10, '1m'],
    ]),
  /** Ten times as much from one moment to the next, and back. */
  spike: () =>
    ramping([
      [RATE, '1m'],
      [10 * RATE, '5s'],
      [10 * RATE, '30s'],
      [RATE, '5s'],
      [RATE, '1m'],
    ]),
  /** Does it grow? */
  soak: () => constant(RATE, __ENV.DURATION || '1h'),
  /** Up until it breaks; the thresholds end the run. */
  breakpoint: () => ramping([[20 * RATE, __ENV.DURATION || '10m']]),
};

export const testType = __ENV.TEST_TYPE || 'smoke';
if (!TYPES[testType]) {
  throw new Error(`TEST_TYPE=${testType} is none of ${Object.keys(TYPES).join(', ')}`);
}

/** What the service promises; a run that misses one ends with an error. */
function thresholds() {
  const abort = testType === 'breakpoint';
  const bound = (threshold) => [{ threshold, abortOnFail: abort, delayAbortEval: '10s' }];
  return {
    http_req_failed: bound('rate<0.01'),
    http_req_duration: bound('p(95)<1000'),
    checks: bound('rate>0.99'),
    dropped_iterations: bound('count==0'),
  };
}

export const options = {
  scenarios: { [testType]: { ...TYPES[testType](), exec: 'mix' } },
  thresholds: thresholds(),
  // The certificate of a stack on a laptop is self-signed.
  insecureSkipTLSVerify: __ENV.INSECURE === 'true',
  summaryTrendStats: ['min', 'med', 'avg', 'p(90)', 'p(95)', 'p(99)', 'max'],
};
