// Goes with the example: src/features/orders
import { check, sleep } from 'k6';
import exec from 'k6/execution';
import http from 'k6/http';
import { Counter, Gauge } from 'k6/metrics';
import { headersOf, keys, urlOf } from './requests.js';
import { settings } from './settings.js';
import { fullestWindow, leastAdmitted } from './windows.js';

const WINDOW_SECONDS = 60;
/** What each round offers: a multiple of the limit, all at once or evenly over some seconds. */
const OVERLOAD = 2.5;
const SPREAD_SECONDS = 20;
const BATCHES_A_SECOND = 2;
const LARGEST_BATCH = 50;

const admittedCount = new Counter('limits_admitted');
const deniedCount = new Counter('limits_denied');
const most = new Gauge('limits_most');

/**
 * One k6 user per key. Nothing else may use the key. A round offers much more than LIMIT, to any replica, waits for
 * Retry-After and sends one more request, which must be admitted.
 */
export function limits() {
  const key = keys[exec.vu.idInTest - 1];
  const tags = { key: String(exec.vu.idInTest) };
  const admitted = [];

  /** Sends `count` requests at the same time. Resolves to the number admitted and the wait of the others. */
  function offer(count) {
    const from = Date.now();
    const answers = http.batch(Array.from({ length: count }, () => requestWith(key)));
    const to = Date.now();
    const waits = [];
    for (const answer of answers) {
      judge(answer);
      if (answer.status === 200) admitted.push({ from, to });
      if (answer.status === 429) waits.push(Number(answer.headers['Retry-After']));
    }
    admittedCount.add(count - waits.length, tags);
    deniedCount.add(waits.length, tags);
    return { admitted: count - waits.length, waitSeconds: Math.max(0, ...waits) };
  }

  for (let round = 1; round <= settings.rounds; round += 1) {
    const before = admitted.length;
    // Every second key sends all at once.
    const last = exec.vu.idInTest % 2 === 0 ? offerAtOnce(offer) : offerEvenly(offer);
    const count = admitted.length - before;
    check(count, {
      'of more than the limit the limit is admitted': () =>
        count >= leastAdmitted(settings.limit) && count <= settings.limit,
    });
    check(last, { 'at the limit every request is denied': () => last.admitted === 0 });
    sleep(last.waitSeconds);
    check(offer(1), { 'after Retry-After a request is admitted': (one) => one.admitted === 1 });
  }
  const inAWindow = fullestWindow(admitted, 1000 * WINDOW_SECONDS);
  most.add(inAWindow, tags);
  check(inAWindow, { 'no 60 seconds hold more than the limit': () => inAWindow <= settings.limit });
}

function offerAtOnce(offer) {
  let last;
  for (let left = Math.ceil(OVERLOAD * settings.limit); left > 0; left -= LARGEST_BATCH) {
    last = offer(Math.min(left, LARGEST_BATCH));
  }
  return last;
}

function offerEvenly(offer) {
  const batches = SPREAD_SECONDS * BATCHES_A_SECOND;
  const each = Math.ceil((OVERLOAD * settings.limit) / batches);
  let last;
  for (let batch = 0; batch < batches; batch += 1) {
    const from = Date.now();
    last = offer(each);
    sleep(Math.max(0, 1 / BATCHES_A_SECOND - (Date.now() - from) / 1000));
  }
  return last;
}

function requestWith(key) {
  const responseCallback = http.expectedStatuses(200, 429);
  return ['GET', urlOf('/orders?limit=1'), null, { headers: headersOf(key), responseCallback }];
}

/** The headers of every response: limit, remaining, reset. */
function judge({ status, headers, body }) {
  const [, left, seconds] = (/^"minute";r=(\d+);t=(\d+)$/.exec(headers.Ratelimit) || []).map(Number);
  const isDenied = status === 429;
  check(headers, {
    'RateLimit-Policy names the limit': () =>
      headers['Ratelimit-Policy'] === `"minute";q=${settings.limit};w=${WINDOW_SECONDS}`,
    'RateLimit says what is left, and until when': () =>
      left >= 0 && left < settings.limit && seconds >= 1 && seconds <= WINDOW_SECONDS + 1,
    'denied: nothing is left, and Retry-After names the same moment': () =>
      !isDenied || (left === 0 && headers['Retry-After'] === String(seconds)),
    'denied: 429 as a problem': () => !isDenied || JSON.parse(body).code === 'rate_limited',
    'admitted: no Retry-After': () => isDenied || headers['Retry-After'] === undefined,
  });
}
