import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { CLIENT_CLOSED_REQUEST } from './metrics.ts';
import type { RequestSpan, Tracing } from './tracing.ts';

/** A span for each request, and all that its hooks and its handler call is part of it. Not for probes. */
export const traceRequests = fp<{ tracing: Tracing }>(
  async (app, { tracing }) => {
    const spans = new WeakMap<FastifyRequest, RequestSpan>();

    app.addHook('onRequest', (request, reply, done) => {
      const { url: route, config } = request.routeOptions;
      if (config.quiet) return done();
      const isContinued = request.raw.trace !== undefined;
      const span = tracing.startRequest(request.raw, {
        method: request.method,
        scheme: request.protocol,
        route,
      });
      spans.set(request, span);
      // The log of the request was made before, with the trace that the request came with.
      if (!isContinued) request.log = reply.log = request.log.child({ trace_id: request.raw.trace?.traceId });
      reply.raw.once('close', () =>
        span.end(reply.raw.writableEnded ? reply.statusCode : CLIENT_CLOSED_REQUEST),
      );
      span.run(done);
    });

    // A body arrives by the parser's events, which know nothing of the request's context.
    app.addHook('preValidation', (request, _reply, done) => {
      const span = spans.get(request);
      if (span) span.run(done);
      else done();
    });
  },
  { name: 'trace-requests' },
);
