import {
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  context,
  createTraceState,
  diag,
  DiagLogLevel,
  trace,
  type Context,
  type DiagLogger,
} from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import {
  defaultResource,
  detectResources,
  envDetector,
  resourceFromAttributes,
} from '@opentelemetry/resources';
import { BasicTracerProvider, BatchSpanProcessor, type SpanExporter } from '@opentelemetry/sdk-trace-base';
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Logger } from 'pino';
import type { TraceContext } from './trace-context.ts';
import { traceClients } from './tracing-clients.ts';

/** Where spans go, and with which headers. */
export interface TracingConfig {
  /** The whole URL, with the path of the signal. */
  url: string;
  protocol: 'http/protobuf' | 'http/json';
  headers: Record<string, string>;
}

export interface RequestSpan {
  /** What `next` calls, now and later, becomes part of the span. */
  run(next: () => void): void;
  end(status: number): void;
}

export interface Tracing {
  /** Begins the span of a request and puts it into `request.trace`. `route` is the pattern, undefined for none. */
  startRequest(
    request: IncomingMessage,
    about: { method: string; scheme: string; route: string | undefined },
  ): RequestSpan;
  /** Sends what is pending. */
  close(): Promise<void>;
}

/**
 * OpenTelemetry, when OTEL_EXPORTER_OTLP_ENDPOINT asks for it: service.ts loads this file, and with it the
 * packages, only then. Spans tell patterns and names, as the log does: no path, query, value or key.
 * The provider is registered globally, so a feature can make spans with `trace.getTracer` of the API.
 */
export async function startTracing(
  { url, protocol, headers }: TracingConfig,
  { log, version }: { log: Logger; version: string },
): Promise<Tracing> {
  diag.setLogger(toDiagLogger(log), { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true });
  const { OTLPTraceExporter } =
    protocol === 'http/json'
      ? await import('@opentelemetry/exporter-trace-otlp-http')
      : await import('@opentelemetry/exporter-trace-otlp-proto');
  const exporter: SpanExporter = new OTLPTraceExporter({ url, headers: { ...headers } });
  const service = {
    'service.name': 'hardpoint',
    'service.version': version,
    'service.instance.id': randomUUID(),
  };
  const provider = new BasicTracerProvider({
    // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
    resource: defaultResource()
      .merge(resourceFromAttributes(service))
      .merge(detectResources({ detectors: [envDetector] })),
    spanProcessors: [new BatchSpanProcessor(exporter)],
  });
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  trace.setGlobalTracerProvider(provider);
  const tracer = provider.getTracer('hardpoint', version);
  traceClients(tracer);

  return {
    startRequest(request, { method, scheme, route }) {
      const known = METHODS.has(method);
      const span = tracer.startSpan(
        `${known ? method : 'HTTP'}${route === undefined ? '' : ` ${route}`}`,
        {
          kind: SpanKind.SERVER,
          attributes: {
            'http.request.method': known ? method : '_OTHER',
            'url.scheme': scheme,
            ...(route !== undefined && { 'http.route': route }),
          },
        },
        toContext(request.trace),
      );
      const { traceId, spanId, traceFlags } = span.spanContext();
      request.trace = { ...request.trace, traceId, spanId, flags: traceFlags };
      const inside = trace.setSpan(ROOT_CONTEXT, span);
      return {
        run: (next) => context.with(inside, next),
        end(status) {
          span.setAttribute('http.response.status_code', status);
          if (status >= FAILED) {
            span.setAttribute('error.type', String(status)).setStatus({ code: SpanStatusCode.ERROR });
          }
          span.end();
        },
      };
    },

    close: () => provider.shutdown(),
  };
}

/** Of RFC 9110 and 5789; any other is told as _OTHER, for a client can make it up. */
const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'CONNECT']);
/** Of a server's span only its own failures are errors. */
const FAILED = 500;

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

/** The SDK's own troubles, such as a collector that is away, as lines of the log. */
function toDiagLogger(log: Logger): DiagLogger {
  const warn = (reason: string) => log.warn({ reason: describe(reason) }, 'tracing has a problem');
  const ignore = () => undefined;
  return { error: warn, warn, info: ignore, debug: ignore, verbose: ignore };
}

/** An error comes as its JSON, which holds a stack and what the collector answered. */
function describe(text: string): string {
  try {
    const { message, code } = JSON.parse(text) as { message?: string; code?: string };
    return [message, code].filter(Boolean).join(' ') || 'unknown';
  } catch {
    return text;
  }
}
