import {
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  context,
  createTraceState,
  trace,
  type Context,
  type Tracer,
} from '@opentelemetry/api';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { CLIENT_CLOSED_REQUEST } from './metrics.ts';
import type { TraceContext } from './trace-context.ts';

/** Of RFC 9110 and 5789; any other is named _OTHER, for a client can make it up. */
const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'CONNECT']);
/** Of a server's span only its own failures are errors. */
const FAILED = 500;

/** A span for each request, and all that its hooks and its handler call is part of it. Not for probes. */
export function createTraceRequests(tracer: Tracer) {
  async function traceRequests(app: FastifyInstance): Promise<void> {
    const contexts = new WeakMap<FastifyRequest, Context>();

    app.addHook('onRequest', (request, reply, done) => {
      if (request.routeOptions.config.skipLogging) return done();
      const parent = request.raw.trace;
      const span = tracer.startSpan(...describeRequest(request), toContext(parent));
      const { traceId, spanId, traceFlags } = span.spanContext();
      request.raw.trace = { ...parent, traceId, spanId, flags: traceFlags };
      reply.raw.once('close', () => {
        const status = reply.raw.writableEnded ? reply.statusCode : CLIENT_CLOSED_REQUEST;
        span.setAttribute('http.response.status_code', status);
        if (status >= FAILED) {
          span.setAttribute('error.type', String(status)).setStatus({ code: SpanStatusCode.ERROR });
        }
        span.end();
      });
      const inside = trace.setSpan(ROOT_CONTEXT, span);
      contexts.set(request, inside);
      context.with(inside, done);
    });

    // A body arrives by the parser's events, which know nothing of the request's context.
    app.addHook('preValidation', (request, _reply, done) => {
      const inside = contexts.get(request);
      if (inside) context.with(inside, done);
      else done();
    });
  }
  return fp(traceRequests, { name: 'trace-requests' });
}

/** The name and the attributes of its span. */
function describeRequest({ method, protocol, routeOptions }: FastifyRequest) {
  const route = routeOptions.url;
  const isKnown = METHODS.has(method);
  const attributes = {
    'http.request.method': isKnown ? method : '_OTHER',
    'url.scheme': protocol,
    ...(route !== undefined && { 'http.route': route }),
  };
  const name = [isKnown ? method : 'HTTP', route].filter(Boolean).join(' ');
  return [name, { kind: SpanKind.SERVER, attributes }] as const;
}

function toContext(parent: TraceContext | undefined): Context {
  if (!parent) return ROOT_CONTEXT;
  const { traceId, spanId, flags: traceFlags, state } = parent;
  return trace.setSpanContext(ROOT_CONTEXT, {
    traceId,
    spanId,
    traceFlags,
    isRemote: true,
    ...(state !== undefined && { traceState: createTraceState(state) }),
  });
}
