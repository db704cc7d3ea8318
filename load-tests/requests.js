// Goes with the example: src/features/orders
import exec from 'k6/execution';
import http from 'k6/http';
import { Counter } from 'k6/metrics';
import { settings } from './settings.js';
import { sliceSeconds, slices } from './types.js';

export const keys = open(settings.keysFile).split(/\s+/).filter(Boolean);
if (keys.length === 0) throw new Error(`${settings.keysFile} holds no key; one on each line`);

/** What requests are called in the results: the ids in their URLs would make a series each. */
export const NAMES = ['read', 'read cold', 'read again', 'list', 'summary', 'create', 'change', 'bad'];

/** Answers that nobody wanted are counted by these; 0 is none at all. */
export const STATUSES = [0, 400, 401, 403, 404, 409, 412, 429, 500, 502, 503, 504];
const failures = new Counter('failures');

/**
 * A request of the load; `name` is one of NAMES.
 * @param path below /v1, at any of the addresses in BASE_URL
 * @param expected the statuses that this request may get; any other one is a failed request
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

/** What the scenario sends late still belongs to its last part. */
export function currentSlice() {
  const seconds = (Date.now() - exec.scenario.startTime) / 1000;
  return Math.min(slices - 1, Math.floor(seconds / sliceSeconds));
}

export function pick(all) {
  return all[Math.floor(Math.random() * all.length)];
}

/** A name that no other order has, in this run or in another one. */
export function unique() {
  return `load-${Date.now().toString(36)}-${exec.vu.idInTest}-${Math.random().toString(36).slice(2)}`;
}
