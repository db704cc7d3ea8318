import fp from 'fastify-plugin';
import type { OutgoingHttpHeaders } from 'node:http';
import { AppError } from '../errors.ts';
import type { Metrics } from '../observability/metrics.ts';
import { reportFailure } from './problems.ts';
import type { Lifecycle, RunningRequest } from './shutdown.ts';

interface RequestTimeoutOptions {
  timeoutMs: number;
  lifecycle: Lifecycle;
  metrics: Metrics;
}

const SWEEPS_PER_TIMEOUT = 8;
const SWEEP_MAX_MS = 1_000;
/** Headers that describe the body of the handler, not the problem. */
const OF_THE_BODY = ['content-encoding', 'etag', 'last-modified', 'trailer', 'transfer-encoding'];

/**
 * Responds `timeout` to a request that takes longer than REQUEST_TIMEOUT_SECONDS. A stream that has begun by then is
 * cut, so that the client does not take it for whole. The handler is not stopped, and nothing that it sends later
 * goes out. Statements end earlier, in Postgres (QUERY_TIMEOUT_SECONDS). One sweep over the running requests does
 * what Fastify's handlerTimeout does with a timer, an AbortController and three listeners a request, which made a
 * tenth of a cached read.
 */
export const requestTimeout = fp<RequestTimeoutOptions>(
  async (app, { timeoutMs, lifecycle, metrics }) => {
    function sweep(): void {
      const dueMs = performance.now() - timeoutMs;
      for (const running of lifecycle.running) {
        if (running.startedMs <= dueMs && !running.reply.sent) end(running);
      }
    }

    function end(running: RunningRequest): void {
      const { request, reply } = running;
      const { raw } = reply;
      const error = new AppError('timeout', 'The request took too long');
      const { status, headers, body } = reportFailure(metrics, request, error);
      running.timedOut = true;
      // Past the hooks: a hook or an earlier send may be what takes too long, and would send a second time.
      reply.hijack();
      if (raw.headersSent) {
        raw.statusCode = status;
        raw.destroy();
        return;
      }
      for (const name of OF_THE_BODY) {
        raw.removeHeader(name);
        reply.removeHeader(name);
      }
      const sent = { ...reply.getHeaders(), ...headers, 'content-length': Buffer.byteLength(body) };
      raw.writeHead(status, sent as OutgoingHttpHeaders).end(body);
    }

    const timer = setInterval(sweep, Math.min(SWEEP_MAX_MS, timeoutMs / SWEEPS_PER_TIMEOUT));
    timer.unref();
    app.addHook('onClose', async () => clearInterval(timer));
  },
  { name: 'request-timeout' },
);
