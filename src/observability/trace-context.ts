/** Where a request stands in a trace that spans services: W3C Trace Context. */
export interface TraceContext {
  /** 32 hex digits; in every log line of the request. */
  traceId: string;
  /** 16 hex digits: the span that what comes next is part of. */
  spanId: string;
  /** Bit 0: the trace is recorded. Bit 1: its id is random. */
  flags: number;
  /** `tracestate` as it came: what the tracing systems on the way say to each other. */
  state?: string;
}

/** Lower case only; no version ff; no id of zeros. A comma would be Node's join of two headers. */
const TRACEPARENT =
  /^(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[!-+\--~]*)?$/;
/** The flags that have a meaning; what a sender does not understand it must not pass on. */
const KNOWN_FLAGS = 0b11;
/** What every system on the way must be able to carry; a longer list is dropped as a whole. */
const STATE_CHARS_MAX = 512;
const STATE = /^[\x20-\x7e]+$/;

/**
 * Reads the headers `traceparent` and `tracestate`; undefined when the first is not valid, and a trace of
 * one's own has to begin. Later versions may add fields: they are read as version 00 and the rest is ignored.
 */
export function parseTraceContext(traceparent: string, tracestate?: string): TraceContext | undefined {
  const [, version, traceId = '', spanId = '', flags = '', more] = TRACEPARENT.exec(traceparent) ?? [];
  if (version === undefined || (version === '00' && more !== undefined)) return undefined;
  const state =
    tracestate !== undefined && tracestate.length <= STATE_CHARS_MAX && STATE.test(tracestate)
      ? { state: tracestate }
      : {};
  return { traceId, spanId, flags: parseInt(flags, 16) & KNOWN_FLAGS, ...state };
}

/** The headers that tell another service which trace its work belongs to. */
export function traceHeaders({ traceId, spanId, flags, state }: TraceContext): Record<string, string> {
  const traceparent = `00-${traceId}-${spanId}-${flags.toString(16).padStart(2, '0')}`;
  return { traceparent, ...(state !== undefined && { tracestate: state }) };
}
