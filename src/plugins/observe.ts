import type { FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import type { Logger } from 'pino';
import type { Lifecycle } from '../lifecycle.ts';
import type { Metrics } from '../metrics.ts';

export interface ObserveOptions {
  log: Logger;
  metrics: Metrics;
  lifecycle: Lifecycle;
  slowRequestMs: number;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Leaves the route out of the request log: probes would drown everything else. */
    quiet?: boolean;
  }
}

/** nginx's number for a client that left before its answer. */
const CLIENT_CLOSED_REQUEST = 499;

/** Methods that have a series of their own; a client can make up any other. */
const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']);

/**
 * What is known of every request: its id in the answer, one log line, and the request metrics. Log
 * and metrics share the one response hook, for the hook itself costs more than either.
 */
export const observe = fp<ObserveOptions>(
  async (app, { log, metrics, lifecycle, slowRequestMs }) => {
    app.addHook('onRoute', (route) => {
      const statuses = Object.keys((route.schema?.response ?? {}) as object);
      for (const method of [route.method].flat()) {
        for (const status of statuses) metrics.requests.inc({ method, route: route.url, status }, 0);
        metrics.requestLatency.zero({ method, route: route.url });
      }
    });

    app.addHook('onRequest', (request, reply, done) => {
      metrics.requestsInFlight.inc();
      reply.header('x-request-id', request.id);
      if (lifecycle.draining) reply.header('connection', 'close');
      // 'close' ends every answer, also one whose client hung up; Fastify's response hook misses those.
      reply.raw.once('close', () => finish(request, reply));
      done();
    });

    // These fields are all our own: nothing to redact, and looking for it costs more than the rest of the line.
    const lines = log.child({}, { redact: [] });

    function finish(request: FastifyRequest, reply: FastifyReply): void {
      const status = reply.raw.writableFinished ? reply.statusCode : CLIENT_CLOSED_REQUEST;
      const route = request.routeOptions.url ?? 'unmatched';
      const method = METHODS.has(request.method) ? request.method : 'OTHER';
      const durationMs = reply.elapsedTime;
      metrics.requestsInFlight.dec();
      metrics.requests.inc({ method, route, status });
      metrics.requestLatency.observe({ method, route }, durationMs / 1000);
      if (request.routeOptions.config.quiet) return;

      const line = {
        request_id: request.id,
        tenant: request.principal?.tenant,
        key_id: request.principal?.keyId,
        method,
        endpoint: route,
        status,
        duration_ms: Math.round(durationMs * 10) / 10,
      };
      if (durationMs > slowRequestMs) {
        metrics.slowRequests.inc();
        lines.warn(line, 'SLOW REQUEST');
      } else {
        lines.info(line, 'request completed');
      }
    }
  },
  { name: 'observe' },
);
