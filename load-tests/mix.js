// Goes with the example: src/features/orders
import { check } from 'k6';
import exec from 'k6/execution';
import http from 'k6/http';

const api = `${__ENV.BASE_URL}/v1`;
const keys = (__ENV.API_KEYS_FILE ? open(__ENV.API_KEYS_FILE) : '').split(/\s+/).filter(Boolean);
if (!__ENV.BASE_URL || keys.length === 0) {
  throw new Error(
    'Set BASE_URL (https://api.example.com) and API_KEYS_FILE (a file with a key on each line)',
  );
}

/** Every status that a request of the mix may get; anything else is a failed request. */
http.setResponseCallback(http.expectedStatuses({ min: 200, max: 299 }, 304, 400, 409, 412));

/** As a real API sees it: shares of 100. */
const MIX = [
  [55, readHot],
  [15, readAgain],
  [10, list],
  [5, summary],
  [10, create],
  [3, changeTwice],
  [2, sendNonsense],
];

/** What the run works on: some orders of each key. */
export function setup() {
  const orders = {};
  for (const key of keys) {
    orders[key] = Array.from({ length: 20 }, (_, index) => {
      const answer = http.post(`${api}/orders`, body(`setup-${Date.now()}-${index}`), {
        headers: headersOf(key),
      });
      if (answer.status !== 201) {
        exec.test.abort(`an order of the setup was answered ${answer.status}: ${answer.body}`);
      }
      return answer.json('id');
    });
  }
  return { orders };
}

export function mix({ orders }) {
  const key = pick(keys);
  let left = Math.random() * 100;
  const [, work] = MIX.find(([share]) => (left -= share) < 0) || MIX[0];
  work(key, orders[key]);
}

function readHot(key, ids) {
  const id = ids[Math.floor(Math.random() ** 3 * ids.length)];
  const answer = http.get(`${api}/orders/${id}`, about(key, 'read'));
  check(answer, { 'read: 200 with an ETag': ({ status, headers }) => status === 200 && !!headers.Etag });
}

function readAgain(key, ids) {
  const url = `${api}/orders/${pick(ids)}`;
  const first = http.get(url, about(key, 'read'));
  const second = http.get(url, about(key, 'read again', { 'If-None-Match': first.headers.Etag }));
  check(second, { 'unchanged: 304 or a newer version': ({ status }) => status === 304 || status === 200 });
}

function list(key) {
  const answer = http.get(`${api}/orders?limit=20`, about(key, 'list'));
  check(answer, { 'list: 200 and bounded': (r) => r.status === 200 && r.json('data').length <= 20 });
}

function summary(key) {
  const today = new Date().toISOString().slice(0, 10);
  const answer = http.get(`${api}/orders/summary?from=${today}&to=${today}`, about(key, 'summary'));
  check(answer, { 'summary: 200': ({ status }) => status === 200 });
}

/** One in four is sent again, as after a timeout: the same order, not a second one. */
function create(key) {
  const reference = unique();
  const params = about(key, 'create', { 'Idempotency-Key': reference });
  const first = http.post(`${api}/orders`, body(reference), params);
  check(first, { 'create: 201': ({ status }) => status === 201 });
  if (Math.random() > 0.25) return;
  const second = http.post(`${api}/orders`, body(reference), params);
  check(second, {
    'repeated create: the same order': (r) => r.status === 201 && r.json('id') === first.json('id'),
  });
}

/** Two changes of one version: the second has to lose. */
function changeTwice(key) {
  const order = http.post(`${api}/orders`, body(unique()), about(key, 'create'));
  const url = `${api}/orders/${order.json('id')}`;
  const params = about(key, 'change', { 'If-Match': order.headers.Etag });
  const [first, second] = ['paid', 'cancelled'].map((status) =>
    http.patch(url, JSON.stringify({ status }), params),
  );
  check(first, { 'change: 200': ({ status }) => status === 200 });
  check(second, { 'conflicting change: 412': ({ status }) => status === 412 });
}

function sendNonsense(key) {
  const answer = http.post(`${api}/orders`, '{"reference":1}', about(key, 'nonsense'));
  check(answer, {
    'nonsense: 400 as a problem': (r) => r.status === 400 && r.json('code') === 'validation_failed',
  });
}

function body(reference) {
  const items = [{ sku: 'LOAD-1', quantity: 2, unitPriceMinor: 1250 }];
  return JSON.stringify({ reference, currency: 'EUR', items });
}

function unique() {
  return `load-${Date.now()}-${exec.scenario.iterationInTest}-${Math.random().toString(36).slice(2)}`;
}

/** Names keep the ids out of the series. */
function about(key, name, headers = {}) {
  return { headers: { ...headersOf(key), ...headers }, tags: { name } };
}

function headersOf(key) {
  return { authorization: `Bearer ${key}`, 'content-type': 'application/json', accept: 'application/json' };
}

function pick(all) {
  return all[Math.floor(Math.random() * all.length)];
}
