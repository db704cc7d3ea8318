import fp from 'fastify-plugin';
import { AppError } from '../errors.ts';
import type { Lifecycle } from '../lifecycle.ts';

const SWEEPS_PER_TIMEOUT = 8;
const SWEEP_MAX_MS = 1_000;

/**
 * Answers `timeout` for a request that takes longer than REQUEST_TIMEOUT_SECONDS; its handler is not stopped, but
 * nobody waits for it. Statements end earlier, in Postgres (QUERY_TIMEOUT_SECONDS). One sweep over what runs does
 * what Fastify's handlerTimeout does with a timer, an AbortController and three listeners a request, which made a
 * tenth of a cached read. An answer that has begun is not late, however long a stream it is.
 */
export const requestTimeout = fp<{ timeoutMs: number; lifecycle: Lifecycle }>(
  async (app, { timeoutMs, lifecycle }) => {
    function sweep(): void {
      const dueMs = performance.now() - timeoutMs;
      for (const { reply, startedMs } of lifecycle.running) {
        if (startedMs > dueMs || reply.sent || reply.raw.headersSent) continue;
        reply.send(new AppError('timeout', 'The request took too long'));
      }
    }

    const timer = setInterval(sweep, Math.min(SWEEP_MAX_MS, timeoutMs / SWEEPS_PER_TIMEOUT));
    timer.unref();
    app.addHook('onClose', async () => clearInterval(timer));
  },
  { name: 'request-timeout' },
);
