import fp from 'fastify-plugin';
import type { Logger } from 'pino';
import type { Lifecycle } from './shutdown.ts';
import { CLIENT_CLOSED_REQUEST, type Metrics } from '../observability/metrics.ts';
import { UNMATCHED, methodLabel, startSeries, startUnmatchedSeries } from './request-series.ts';
import type { RunningRequest } from './running-requests.ts';

interface AccessLogOptions {
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

/**
 * What is known of every request: its id in the answer, one log line, and the request metrics. Log
 * and metrics share the one listener at the end of the answer.
 */
export const accessLog = fp<AccessLogOptions>(
  async (app, { record, metrics, lifecycle }) => {
    const { running } = lifecycle;
    startUnmatchedSeries(metrics);
    app.addHook('onRoute', (route) => startSeries(metrics, route));

    app.addHook('onRequest', (request, reply, done) => {
      const started = running.start(request, reply);
      // 'close' ends every answer, also one whose client hung up; Fastify's response hook misses those.
      reply.raw.once('close', () => finish(started));
      reply.header('x-request-id', request.id);
      if (lifecycle.draining) reply.header('connection', 'close');
      done();
    });

    function finish(ended: RunningRequest): void {
      running.end(ended);
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
        quiet: config.quiet ?? false,
      });
    }
  },
  { name: 'access-log' },
);

interface CompletedRequest {
  requestId: string;
  traceId?: string | undefined;
  principal?: { tenant: string; keyId: string } | null;
  method: string;
  route: string;
  status: number;
  durationMs: number;
  quiet: boolean;
}

export type RecordRequest = (request: CompletedRequest) => void;

/** The log line and the count of one completed request, whoever responded. */
export function createRequestRecord(options: {
  log: Logger;
  metrics: Metrics;
  slowRequestMs: number;
}): RecordRequest {
  const { metrics, slowRequestMs } = options;
  // These fields are all our own: nothing to redact, and looking for it costs more than the rest of the line.
  const log = options.log.child({}, { redact: [] });

  return ({ requestId, traceId, principal, method: sent, route, status, durationMs, quiet }) => {
    const method = methodLabel(sent);
    metrics.requests.inc({ method, route, status });
    if (quiet) return;
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
