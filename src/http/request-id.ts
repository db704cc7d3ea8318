import { randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { parseTraceContext, type TraceContext } from '../observability/trace-context.ts';

declare module 'node:http' {
  interface IncomingMessage {
    /** For those who see the raw request alone. */
    id?: string;
    /** The trace that the request belongs to, when it came with one or tracing is on. */
    trace?: TraceContext;
  }
}

/** What an id from outside must look like to enter a log line. */
const ACCEPTED = /^[A-Za-z0-9._-]{1,64}$/;

/**
 * Ids for requests: the one that a trusted proxy sent, if it is harmless, else one of our own. A
 * random prefix a process and a counter are unique enough and cost less than a UUID. A trace is
 * continued for the same senders only: ids that a stranger chose would mix his requests into the
 * logs and traces of others, and his `sampled` flag would decide what we record.
 */
export function createRequestIds(isTrusted: (address: string | undefined) => boolean) {
  const prefix = randomBytes(8).toString('base64url').replaceAll('_', '.');
  let counter = 0;
  const next = () => `${prefix}-${(counter++).toString(36)}`;
  return {
    next,
    of(request: IncomingMessage): string {
      const { 'x-request-id': sent, traceparent } = request.headers;
      // Most requests bring neither, and then nobody need ask who sent them.
      if (sent === undefined && traceparent === undefined) return (request.id = next());
      if (!isTrusted(request.socket.remoteAddress)) return (request.id = next());
      if (traceparent !== undefined) continueTrace(request, traceparent);
      return (request.id = typeof sent === 'string' && ACCEPTED.test(sent) ? sent : next());
    },
  };
}

function continueTrace(request: IncomingMessage, traceparent: string | string[]): void {
  const { tracestate } = request.headers;
  const trace = parseTraceContext(String(traceparent), tracestate?.toString());
  if (trace) request.trace = trace;
}
