import type { RouteOptions } from 'fastify';
import { ERROR_CODES, type ErrorCode } from '../errors.ts';
import { PROBLEMS, failuresOf } from './failures.ts';
import { CLIENT_CLOSED_REQUEST, type Metrics } from '../observability/metrics.ts';

/** Route label of requests that no route answers. */
export const UNMATCHED = 'unmatched';

/** Methods that have a series of their own; a client can make up any other. */
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];
const OTHER = 'OTHER';
const KNOWN = new Set(METHODS);

export function methodLabel(method: string): string {
  return KNOWN.has(method) ? method : OTHER;
}

/** What can happen on every route, whatever it states. */
const ALWAYS: ErrorCode[] = ['internal', 'unavailable', 'timeout'];
/** Of routes that are not in the document and so state no responses: pages and preflights. */
const UNSTATED = ['200', '204', '302', '304', '404'];

/**
 * Starts every series that a route can count to at 0: the first 503 of a series that does not exist is no
 * increase to Prometheus, and what exists from the start cannot grow by what clients make up.
 */
export function startSeries(metrics: Metrics, route: RouteOptions): void {
  const stated = Object.keys(route.schema?.response ?? {});
  const responses = stated.length > 0 ? stated : UNSTATED;
  const failures = [...ALWAYS, ...failuresOf(route)];
  for (const method of [route.method].flat()) start(metrics, method, route.url, responses, failures);
}

/** The same for requests that no route answers. */
export function startUnmatchedSeries(metrics: Metrics): void {
  for (const method of [...METHODS, OTHER]) start(metrics, method, UNMATCHED, [], ERROR_CODES);
}

function start(
  { requests, requestLatency }: Metrics,
  method: string,
  route: string,
  responses: string[],
  failures: readonly ErrorCode[],
): void {
  const statuses = [...responses, ...failures.map((code) => String(PROBLEMS[code][0]))];
  for (const status of [...statuses, String(CLIENT_CLOSED_REQUEST)]) {
    requests.inc({ method, route, status }, 0);
  }
  requestLatency.zero({ method, route });
}
