import type { FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { Logger } from 'pino';
import type { Lifecycle } from '../lifecycle.ts';
import type { Metrics } from '../metrics.ts';

export interface ObserveOptions {
  record: RecordRequest;
  metrics: Metrics;
  lifecycle: Lifecycle;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /**
     * For probes and the pages of the documentation: not logged, which would drown everything else, and
     * answered over plain HTTP and whatever `Accept` says.
     */
    quiet?: boolean;
  }
}

/** nginx's number for a client that left before its answer. */
const CLIENT_CLOSED_REQUEST = 499;

/** Statuses that alerts look at: every route has their series from the start, or its first failure is no increase. */
const ALERTED_STATUSES = ['500', '503', '504'];

/**
 * What is known of every request: its id in the answer, one log line, and the request metrics. Log
 * and metrics share the one listener at the end of the answer.
 */
export const observe = fp<ObserveOptions>(
  async (app, { record, metrics, lifecycle }) => {
    app.addHook('onRoute', (route) => {
      const statuses = Object.keys(route.schema?.response ?? {});
      for (const method of [route.method].flat()) {
        for (const status of [...statuses, ...ALERTED_STATUSES]) {
          metrics.requests.inc({ method, route: route.url, status }, 0);
        }
        metrics.requestLatency.zero({ method, route: route.url });
      }
    });

    app.addHook('onRequest', (request, reply, done) => {
      metrics.requestsInFlight.inc();
      reply.header('x-request-id', request.id);
      // 'close' ends every answer, also one whose client hung up; Fastify's response hook misses those.
      reply.raw.once('close', () => finish(request, reply));
      done();
    });

    // Not earlier: a request that was in flight when draining began must not leave its connection open.
    app.addHook('onSend', (_request, reply, _payload, done) => {
      if (lifecycle.draining) reply.header('connection', 'close');
      done();
    });

    function finish(request: FastifyRequest, reply: FastifyReply): void {
      const route = request.routeOptions.url ?? UNMATCHED;
      const durationMs = reply.elapsedTime;
      metrics.requestsInFlight.dec();
      metrics.requestLatency.observe({ method: methodLabel(request.method), route }, durationMs / 1000);
      record({
        requestId: request.id,
        principal: request.principal,
        method: request.method,
        route,
        status: reply.raw.writableEnded ? reply.statusCode : CLIENT_CLOSED_REQUEST,
        durationMs,
        quiet: request.routeOptions.config.quiet ?? false,
      });
    }
  },
  { name: 'observe' },
);

export interface AnsweredRequest {
  requestId: string;
  principal?: { tenant: string; keyId: string } | null;
  method: string;
  route: string;
  status: number;
  durationMs: number;
  quiet: boolean;
}

export type RecordRequest = (request: AnsweredRequest) => void;

/** The log line and the count of one answered request, whoever answered it. */
export function createRequestRecord(options: {
  log: Logger;
  metrics: Metrics;
  slowRequestMs: number;
}): RecordRequest {
  const { metrics, slowRequestMs } = options;
  // These fields are all our own: nothing to redact, and looking for it costs more than the rest of the line.
  const log = options.log.child({}, { redact: [] });

  return ({ requestId, principal, route, status, durationMs, quiet, ...request }) => {
    const method = methodLabel(request.method);
    metrics.requests.inc({ method, route, status });
    if (quiet) return;
    const line = {
      request_id: requestId,
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

/** Route label of requests that no route answers. */
const UNMATCHED = 'unmatched';

/** Methods that have a series of their own; a client can make up any other. */
const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']);

function methodLabel(method: string): string {
  return METHODS.has(method) ? method : 'OTHER';
}
