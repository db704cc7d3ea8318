// Goes with the example: src/features/orders
import exec from 'k6/execution';
import http from 'k6/http';
import { Counter } from 'k6/metrics';
import { settings } from './settings.js';
import { sliceSeconds, slices } from './types.js';

export const keys = open(settings.keysFile).split(/\s+/).filter(Boolean);
if (keys.length === 0) throw new Error(`${settings.keysFile} holds no key; one on each line`);

/** Names of requests in the results. With URLs, every id would become a series. */
export const NAMES = ['read', 'read cold', 'read again', 'list', 'summary', 'create', 'change', 'bad'];

/** Unexpected responses are counted by these statuses. 0: no response. */
export const STATUSES = [0, 400, 401, 403, 404, 409, 412, 429, 500, 502, 503, 504];
const failures = new Counter('failures');

/**
 * Sends one request of the load. `name` is one of NAMES.
 * @param path below /v1, at any address in BASE_URL
 * @param expected allowed statuses; any other status is a failed request
 */
export function send(key, name, method, path, expected, { body, headers } = {}) {
  const answer = http.request(method, urlOf(path), body && JSON.stringify(body), {
    headers: { ...headersOf(key), ...headers },
    tags: { name, slice: String(currentSlice()) },
    responseCallback: http.expectedStatuses(...expected),
  });
  if (!expected.includes(answer.status)) failures.add(1, { status: String(answer.status) });
  return answer;
}

export function urlOf(path) {
  return `${pick(settings.urls)}/v1${path}`;
}

export function headersOf(key) {
  return { authorization: `Bearer ${key}`, 'content-type': 'application/json', accept: 'application/json' };
}

/** Requests after the end of the scenario belong to its last slice. */
export function currentSlice() {
  const seconds = (Date.now() - exec.scenario.startTime) / 1000;
  return Math.min(slices - 1, Math.floor(seconds / sliceSeconds));
}

export function pick(all) {
  return all[Math.floor(Math.random() * all.length)];
}

/** A reference that no other order has, in this or in another run. */
export function unique() {
  return `load-${Date.now().toString(36)}-${exec.vu.idInTest}-${Math.random().toString(36).slice(2)}`;
}
