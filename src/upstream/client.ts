import type { IncomingMessage } from 'node:http';
import { AppError } from '../errors.ts';
import type { Metrics } from '../observability/metrics.ts';
import { traceHeaders } from '../observability/trace-context.ts';

export interface UpstreamOptions {
  /** A label of the metric: one word, not the host. */
  name: string;
  /** With a path, if it has one for all calls. */
  url: string;
  timeoutMs: number;
}

const RETRY_AFTER_SECONDS = 2;

/**
 * An HTTP service that a feature calls. Each call, its body included, ends within `timeoutMs`, counts in
 * `upstream_request_latency_seconds`, and carries the id and the trace of the request that it is made for.
 */
export function createUpstream({ name, url, timeoutMs }: UpstreamOptions, { upstreamLatency }: Metrics) {
  const base = url.replace(/\/$/, '');
  upstreamLatency.zero({ upstream: name });

  return {
    /**
     * `path` begins with a slash. The body has arrived when this resolves. Any status is a response; throws AppError
     * `timeout` or `unavailable` without one, or when its body does not arrive in full.
     */
    async fetch(
      { id, trace }: Pick<IncomingMessage, 'id' | 'trace'>,
      path: `/${string}`,
      init: RequestInit = {},
    ): Promise<Response> {
      const headers = new Headers(init.headers);
      if (id !== undefined) headers.set('x-request-id', id);
      for (const [header, value] of Object.entries(trace ? traceHeaders(trace) : {})) {
        headers.set(header, value);
      }
      const signal = AbortSignal.timeout(timeoutMs);
      const stop = upstreamLatency.startTimer({ upstream: name });
      try {
        const response = await fetch(base + path, { redirect: 'error', ...init, headers, signal });
        // Statuses like 204 and 304 have none.
        const body = response.body && (await response.arrayBuffer());
        return new Response(body, response);
      } catch (cause) {
        throw signal.aborted
          ? new AppError('timeout', 'The request took too long', { cause })
          : new AppError('unavailable', 'The service is temporarily unavailable', {
              cause,
              retryAfterSeconds: RETRY_AFTER_SECONDS,
            });
      } finally {
        stop();
      }
    },
  };
}
