/**
 * Logs, metrics and traces: what operators see of the service.
 *
 * Logs are one JSON object a line on stdout. A full disk or a reader that stalls loses lines, which a metric counts,
 * and never stops the service. Metrics have labels from closed lists only, and every series exists from the start.
 * Traces are loaded only with OTEL_EXPORTER_OTLP_ENDPOINT.
 *
 * No key, header, body, query string or value of a statement is in any of them.
 *
 * Tracing may be deleted: `tracing*`, `trace-context`, `statement-channel`, `plugin` and their lines in `main.ts` and
 * `app.ts`.
 */

import type { FastifyBaseLogger } from 'fastify';
import type { IncomingMessage } from 'node:http';
import { createRequire } from 'node:module';
import { pino, type Bindings, type DestinationStream, type Logger, type LoggerOptions } from 'pino';

const SECRETS = ['authorization', 'token', 'password'];

/**
 * The one logger of a process: one JSON object a line with `timestamp`, `level`, `logger` and
 * `message` (LOG_FORMAT=pretty prints the same facts for a person). Nothing that logs passes a
 * header, a body or a query string; the redaction below is the second net, not the first.
 */
export function createLog(
  options: { level: string; format: 'json' | 'pretty' },
  destination: DestinationStream,
): Logger {
  const pinoOptions: LoggerOptions = {
    level: options.level,
    base: { logger: 'hardpoint' },
    messageKey: 'message',
    errorKey: 'error',
    timestamp: createTimestamp(),
    formatters: { level: (label) => ({ level: label }) },
    // `err` is what Fastify calls it; pino's own serializer for it tells every property.
    serializers: { error: describeError, err: describeError },
    redact: {
      paths: ['headers', 'body', 'query', ...SECRETS, ...SECRETS.map((name) => `*.${name}`)],
      remove: true,
    },
  };
  return pino(pinoOptions, options.format === 'json' ? destination : prettify(destination));
}

/** The moment of a line as pino wants it; under load many lines share a millisecond, and its text. */
function createTimestamp(): () => string {
  let lastMs = 0;
  let text = '';
  return () => {
    const now = Date.now();
    if (now !== lastMs) text = `,"timestamp":"${new Date(now).toISOString()}"`;
    lastMs = now;
    return text;
  };
}

function prettify(destination: DestinationStream): DestinationStream {
  // Loaded only when it is wanted: sixty modules, 3 MB.
  const { prettyFactory } = createRequire(import.meta.url)('pino-pretty') as typeof import('pino-pretty');
  const pretty = prettyFactory({
    messageKey: 'message',
    timestampKey: 'timestamp',
    ignore: 'logger',
    singleLine: true,
  });
  return { write: (line) => destination.write(pretty(line)) };
}

/** A connection string inside a driver's message would carry its password into the log. */
const URL_PASSWORD = /(\b[a-z][a-z0-9+.-]*:\/\/[^:@/\s]*):[^@/\s]+@/gi;

/** Kind, text, stack and causes of an error, with passwords in URLs masked and no other own property (a pg error holds row values in `detail`). */
function describeError(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { message: mask(String(error)) };
  const { code } = error as { code?: unknown };
  const tell = DATA_EXCEPTION.test(String(code)) ? withoutValues : mask;
  return {
    type: error.name,
    ...(code === undefined ? {} : { code }),
    message: tell(error.message),
    stack: tell(error.stack ?? ''),
    ...(error.cause === undefined ? {} : { cause: describeError(error.cause) }),
  };
}

/** SQLSTATEs whose message quotes the value that Postgres could not read. */
const DATA_EXCEPTION = /^22[0-9A-Z]{3}$/;

function withoutValues(text: string): string {
  return mask(text).replaceAll(/"[^"]*"/g, '"***"');
}

function mask(text: string): string {
  return text.replace(URL_PASSWORD, '$1:***@');
}

/**
 * A request's logger, made when it is used: most requests log one line, which has the request id itself. Its methods are
 * plain ones, for Fastify looks at each of them in every request, which must not make the logger.
 */
export function createRequestLog(
  parent: FastifyBaseLogger,
  bindings: Bindings,
  request: IncomingMessage,
): FastifyBaseLogger {
  return new RequestLog(parent, bindings, request);
}

class RequestLog {
  readonly #parent: FastifyBaseLogger;
  readonly #bindings: Bindings;
  readonly #request: IncomingMessage;
  #child: FastifyBaseLogger | undefined;

  constructor(parent: FastifyBaseLogger, bindings: Bindings, request: IncomingMessage) {
    this.#parent = parent;
    this.#bindings = bindings;
    this.#request = request;
  }

  get #log(): FastifyBaseLogger {
    return (this.#child ??= this.#makeChild());
  }
  #makeChild(): FastifyBaseLogger {
    const { trace } = this.#request;
    return this.#parent.child({ ...this.#bindings, ...(trace && { trace_id: trace.traceId }) });
  }

  get level() {
    return this.#parent.level;
  }
  child(bindings: Bindings) {
    return this.#log.child(bindings);
  }
  fatal(...args: LogArguments) {
    this.#log.fatal(...args);
  }
  error(...args: LogArguments) {
    this.#log.error(...args);
  }
  warn(...args: LogArguments) {
    this.#log.warn(...args);
  }
  info(...args: LogArguments) {
    this.#log.info(...args);
  }
  debug(...args: LogArguments) {
    this.#log.debug(...args);
  }
  trace(...args: LogArguments) {
    this.#log.trace(...args);
  }
  silent() {}
}

type LogArguments = [fields: object, message?: string];
