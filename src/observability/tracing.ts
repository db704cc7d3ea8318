import { context, diag, DiagLogLevel, trace, type DiagLogger } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import {
  defaultResource,
  detectResources,
  envDetector,
  resourceFromAttributes,
} from '@opentelemetry/resources';
import { BasicTracerProvider, BatchSpanProcessor, type SpanExporter } from '@opentelemetry/sdk-trace-base';
import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { createTraceRequests } from './plugin.ts';
import { traceClients } from './tracing-clients.ts';

/** Where spans go, and with which headers. */
export interface TracingConfig {
  /** The whole URL, with the path of the signal. */
  url: string;
  protocol: 'http/protobuf' | 'http/json';
  headers: Record<string, string>;
}

export type Tracing = Awaited<ReturnType<typeof startTracing>>;

/**
 * OpenTelemetry, when OTEL_EXPORTER_OTLP_ENDPOINT asks for it: main.ts loads this file, and with it the
 * packages, only then. Spans tell patterns and names, as the log does: no path, query, value or key.
 * The provider is registered globally, so a feature can make spans with `trace.getTracer` of the API.
 */
export async function startTracing(
  { url, protocol, headers }: TracingConfig,
  { log, version }: { log: Logger; version: string },
) {
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
    traceRequests: createTraceRequests(tracer),
    /** Sends what is pending. */
    close: () => provider.shutdown(),
  };
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
