import fp from 'fastify-plugin';
import type { Logger } from 'pino';
import { ERROR_CODES, type ErrorCode } from '../errors.ts';
import { CLIENT_CLOSED_REQUEST, type Metrics } from '../observability/metrics.ts';
import { PROBLEMS, failuresOf } from './problems.ts';
import type { Lifecycle, RunningRequest } from './shutdown.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /**
     * For probes and the pages of the documentation: not logged, which would drown everything else, and
     * answered over plain HTTP and whatever `Accept` says.
     */
    skipLogging?: boolean;
  }
}

/** Route label of requests that no route answers. */
export const UNMATCHED = 'unmatched';
/** Methods that have a series of their own; a client can make up any other. */
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];
const OTHER = 'OTHER';
const KNOWN = new Set(METHODS);
/** What can happen on every route, whatever it states. */
const ALWAYS: ErrorCode[] = ['internal', 'unavailable', 'timeout'];
/** Of routes that are not in the document and so state no responses: pages and preflights. */
const UNSTATED = ['200', '204', '302', '304', '404'];

/**
 * What is known of every request: its id in the response, one log line, and the request metrics. Log
 * and metrics share the one listener at the end of the response.
 */
export const accessLog = fp<{ record: RecordRequest; metrics: Metrics; lifecycle: Lifecycle }>(
  async (app, { record, metrics, lifecycle }) => {
    const { running } = lifecycle;
    for (const method of [...METHODS, OTHER]) startSeries(metrics, method, UNMATCHED, ERROR_CODES, []);
    app.addHook('onRoute', (route) => {
      const stated = Object.keys(route.schema?.response ?? {});
      const statuses = stated.length > 0 ? stated : UNSTATED;
      const failures = [...ALWAYS, ...failuresOf(route)];
      for (const method of [route.method].flat()) startSeries(metrics, method, route.url, failures, statuses);
    });

    app.addHook('onRequest', (request, reply, done) => {
      const startedMs = performance.now();
      const started = { request, reply, startedMs, index: running.length, timedOut: false };
      running.push(started);
      // 'close' ends every response, also one whose client hung up; Fastify's response hook misses those.
      reply.raw.once('close', () => finish(started));
      reply.header('x-request-id', request.id);
      if (lifecycle.draining) reply.header('connection', 'close');
      done();
    });

    function finish(ended: RunningRequest): void {
      // The last one takes its place.
      const last = running.pop() as RunningRequest;
      if (last !== ended) running[ended.index] = last;
      last.index = ended.index;
      const { request, reply, startedMs, timedOut } = ended;
      const { url: route = UNMATCHED, config } = request.routeOptions;
      const durationMs = performance.now() - startedMs;
      metrics.requestLatency.observe({ method: methodLabel(request.method), route }, durationMs / 1000);
      record({
        requestId: request.id,
        traceId: request.raw.trace?.traceId,
        principal: request.principal,
        method: request.method,
        route,
        status: reply.raw.writableEnded || timedOut ? reply.statusCode : CLIENT_CLOSED_REQUEST,
        durationMs,
        skipLogging: config.skipLogging ?? false,
      });
    }
  },
  { name: 'access-log' },
);

function methodLabel(method: string): string {
  return KNOWN.has(method) ? method : OTHER;
}

/**
 * Starts every series that a route can count to at 0: the first 503 of a series that does not exist is no
 * increase to Prometheus, and what exists from the start cannot grow by what clients make up.
 */
function startSeries(
  { requests, requestLatency }: Metrics,
  method: string,
  route: string,
  failures: readonly ErrorCode[],
  responses: string[],
): void {
  const statuses = [...responses, ...failures.map((code) => PROBLEMS[code][0]), CLIENT_CLOSED_REQUEST];
  for (const status of statuses) requests.inc({ method, route, status }, 0);
  requestLatency.zero({ method, route });
}

export type RecordRequest = (request: {
  requestId: string;
  traceId?: string | undefined;
  principal?: { tenant: string; keyId: string } | null;
  method: string;
  route: string;
  status: number;
  durationMs: number;
  skipLogging: boolean;
}) => void;

/** The log line and the count of one completed request, whoever responded. */
export function createRequestRecord(options: {
  log: Logger;
  metrics: Metrics;
  slowRequestMs: number;
}): RecordRequest {
  const { metrics, slowRequestMs } = options;
  // These fields are all our own: nothing to redact, and looking for it costs more than the rest of the line.
  const log = options.log.child({}, { redact: [] });

  return ({ requestId, traceId, principal, method: sent, route, status, durationMs, skipLogging }) => {
    const method = methodLabel(sent);
    metrics.requests.inc({ method, route, status });
    if (skipLogging) return;
    const line = {
      request_id: requestId,
      trace_id: traceId,
      tenant: principal?.tenant,
      key_id: principal?.keyId,
      method,
      endpoint: route,
      status,
      duration_ms: Math.round(durationMs * 10) / 10,
    };
    if (durationMs > slowRequestMs) {
      metrics.slowRequests.inc();
      log.warn(line, 'SLOW REQUEST');
    } else {
      log.info(line, 'request completed');
    }
  };
}
