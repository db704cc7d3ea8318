// Goes with the example: src/features/orders
import exec from 'k6/execution';
import http from 'k6/http';
import { readStatus } from './cache.js';
import { newOrder } from './mix.js';
import { headersOf, keys, unique, urlOf } from './requests.js';
import { settings } from './settings.js';
import { type } from './types.js';

const HOT = 20;

/** Per key: orders that exist, and a key of another tenant if there is one. */
export function setup() {
  for (const url of settings.urls) {
    const { status, error } = http.get(`${url}/health/ready`);
    if (status !== 200) exec.test.abort(`${url}/health/ready: ${error || `answered ${status}`}`);
  }
  if (type === 'limits') return {};
  if (settings.hitPercent > 0) readStatus();
  const orders = keys.map(makeOrders);
  const strangers = keys.map((_, index) =>
    keys.findIndex(
      (other) => http.get(urlOf(`/orders/${orders[index][0]}`), { headers: headersOf(other) }).status === 404,
    ),
  );
  return { orders, strangers };
}

function makeOrders(key, index) {
  const params = { headers: headersOf(key) };
  const requests = Array.from({ length: HOT }, () => {
    return ['POST', urlOf('/orders'), JSON.stringify(newOrder(unique())), params];
  });
  return http.batch(requests).map((answer) => {
    if (answer.status === 201) return answer.json('id');
    const what = answer.status === 0 ? answer.error : `answered ${answer.status} ${answer.body}`;
    return exec.test.abort(`an order of the setup with key ${index + 1} of ${settings.keysFile}: ${what}`);
  });
}
