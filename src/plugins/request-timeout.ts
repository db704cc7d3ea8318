import type { FastifyReply } from 'fastify';
import fp from 'fastify-plugin';
import { AppError } from '../errors.ts';

const SWEEPS_PER_TIMEOUT = 8;
const SWEEP_MAX_MS = 1_000;

/**
 * Answers `timeout` for a request that takes longer than REQUEST_TIMEOUT_SECONDS; its handler is not stopped, but
 * nobody waits for it. Statements end earlier, in Postgres (QUERY_TIMEOUT_SECONDS). One sweep over what runs does
 * what Fastify's handlerTimeout does with a timer, an AbortController and three listeners a request, which made a
 * tenth of a cached read.
 */
export const requestTimeout = fp<{ timeoutMs: number }>(
  async (app, { timeoutMs }) => {
    // In the order of their start, and all may take equally long: the first that is not due ends a sweep.
    const running = new Map<FastifyReply, number>();

    function sweep(): void {
      const dueMs = performance.now() - timeoutMs;
      for (const [reply, startedMs] of running) {
        if (startedMs > dueMs) return;
        running.delete(reply);
        if (!reply.sent) reply.send(new AppError('timeout', 'The request took too long'));
      }
    }

    const timer = setInterval(sweep, Math.min(SWEEP_MAX_MS, timeoutMs / SWEEPS_PER_TIMEOUT));
    timer.unref();
    app.addHook('onClose', async () => clearInterval(timer));

    app.addHook('onRequest', (_request, reply, done) => {
      running.set(reply, performance.now());
      reply.raw.once('close', () => running.delete(reply));
      done();
    });
  },
  { name: 'request-timeout' },
);
