// Goes with the example: src/features/orders
import { keys, NAMES, STATUSES } from './requests.js';
import { settings } from './settings.js';
import { peakRate, sliceSeconds, slices, stages, startRate, totalSeconds, type } from './types.js';

const duration = `${totalSeconds}s`;
/** Tags of the load. Other requests are the setup and the readings of the status. */
const LOAD = { part: 'load' };
const HAS_USERS = ['steady', 'stress', 'spike', 'soak'].includes(type) && settings.users > 0;
const WATCHES_CACHE = type !== 'limits' && settings.hitPercent > 0;

function arrivals() {
  // The requests of two seconds may be pending before k6 drops one.
  const most = Math.ceil(peakRate);
  const common = { exec: 'arrive', timeUnit: '1s', tags: LOAD, gracefulStop: '10s' };
  const users = { preAllocatedVUs: Math.min(Math.max(10, most), 500), maxVUs: Math.max(10, 2 * most) };
  if (startRate === undefined) {
    return { ...common, ...users, executor: 'constant-arrival-rate', rate: Math.round(peakRate), duration };
  }
  return {
    ...common,
    ...users,
    executor: 'ramping-arrival-rate',
    startRate: Math.round(startRate),
    stages: stages.map(({ rate, seconds }) => ({
      target: Math.round(rate),
      duration: `${Math.round(1000 * seconds)}ms`,
    })),
  };
}

function scenarios() {
  if (type === 'limits') {
    return {
      limits: { executor: 'per-vu-iterations', vus: keys.length, iterations: 1, exec: 'limits', tags: LOAD },
    };
  }
  const constant = { executor: 'constant-vus', duration };
  return {
    [type]: arrivals(),
    ...(HAS_USERS && {
      users: { ...constant, vus: settings.users, exec: 'use', tags: LOAD, gracefulStop: '10s' },
    }),
    ...(WATCHES_CACHE && { status: { ...constant, vus: 1, exec: 'watchCache', gracefulStop: '0s' } }),
  };
}

/** The promises of the service. A missed one ends the run with 99. */
function promises() {
  if (type === 'limits') {
    return { checks: ['rate==1'], http_req_failed: ['rate==0'], limits_admitted: ['count>0'] };
  }
  const ofAll = {
    'http_req_failed{part:load}': [`rate<${settings.errorPercent / 100}`],
    'http_req_duration{part:load}': [`p(95)<${settings.p95Ms}`],
    checks: ['rate>0.99'],
    dropped_iterations: ['count==0'],
  };
  if (type === 'smoke') return ofAll;
  if (type === 'breakpoint') return { ...ofAll, ...breaks() };
  return {
    ...ofAll,
    ...(startRate === undefined && { 'http_reqs{part:load}': [`rate>=${settings.rate}`] }),
    ...(HAS_USERS && { users: [`count>=${settings.users}`] }),
    ...(WATCHES_CACHE && {
      'cache_hit_rate{phase:measured}': [`rate>${settings.hitPercent / 100}`],
      // A rate without any request would pass.
      'cache_looks{phase:measured}': ['count>0'],
    }),
  };
}

/** Each slice on its own, when it is over. Over the whole run the good minutes would hide the bad ones. */
function breaks() {
  const found = { dropped_iterations: [{ threshold: 'count==0', abortOnFail: true, delayAbortEval: '5s' }] };
  for (let slice = 0; slice < slices; slice += 1) {
    const rest = { abortOnFail: true, delayAbortEval: `${(slice + 1) * sliceSeconds + 2}s` };
    found[`http_req_duration{slice:${slice}}`] = [{ threshold: `p(95)<${settings.p95Ms}`, ...rest }];
    found[`http_req_failed{slice:${slice}}`] = [
      { threshold: `rate<${settings.errorPercent / 100}`, ...rest },
    ];
  }
  return found;
}

/** k6 aggregates by tag only what a threshold names. An empty threshold promises nothing. */
function sums() {
  const names = NAMES.flatMap((name) => [`http_req_duration{name:${name}}`, `http_req_failed{name:${name}}`]);
  const numbers = Array.from({ length: slices }, (_, slice) => slice);
  const perSlice = ['http_req_duration', 'http_req_failed', 'cache_hit_rate'];
  const perKey = ['limits_admitted', 'limits_denied', 'limits_most'];
  const statuses = STATUSES.map((status) => `failures{status:${status}}`);
  const ofLoad = ['http_reqs', 'http_req_duration', 'http_req_failed'].map(
    (metric) => `${metric}{part:load}`,
  );
  const all =
    type === 'limits'
      ? keys.flatMap((_, index) => perKey.map((metric) => `${metric}{key:${index + 1}}`))
      : [
          ...ofLoad,
          'cache_hit_rate{phase:measured}',
          ...names,
          ...statuses,
          ...numbers.flatMap((slice) => perSlice.map((metric) => `${metric}{slice:${slice}}`)),
        ];
  return Object.fromEntries(all.map((name) => [name, []]));
}

export const options = {
  scenarios: scenarios(),
  thresholds: { ...sums(), ...promises() },
  // A stack without its own certificate has a self-signed one.
  insecureSkipTLSVerify: settings.insecure,
  // If a name has several addresses, take one replica after the other.
  dns: { ttl: '5s', select: 'roundRobin', policy: 'preferIPv4' },
  batch: 50,
  batchPerHost: 50,
  summaryTrendStats: ['count', 'min', 'med', 'avg', 'p(90)', 'p(95)', 'p(99)', 'max'],
};
