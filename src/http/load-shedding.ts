import fp from 'fastify-plugin';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { AppError } from '../errors.ts';

const RETRY_AFTER_SECONDS = 2;
const RESOLUTION_MS = 10;
const SAMPLE_MS = 500;

/**
 * When the event loop runs late, more work makes every request late: the ones that come are told
 * to come back, so that those already taken are finished. Not for probes: a busy process is alive.
 */
export const loadShedding = fp<{ maxEventLoopDelayMs: number }>(
  async (app, { maxEventLoopDelayMs }) => {
    if (maxEventLoopDelayMs === 0) return;
    const turns = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
    turns.enable();
    let late = false;
    let wasLate = false;
    const timer = setInterval(() => {
      // The mean distance between turns; NaN when too few were seen to tell, and that sheds nothing.
      const isLate = turns.mean / 1e6 - RESOLUTION_MS > maxEventLoopDelayMs;
      // Twice in a row: one long turn, as when the machine had no time for this process, is over when it is seen.
      late = isLate && wasLate;
      wasLate = isLate;
      turns.reset();
    }, SAMPLE_MS);
    timer.unref();
    app.addHook('onClose', async () => {
      clearInterval(timer);
      turns.disable();
    });

    app.addHook('onRequest', (_request, _reply, done) => {
      done(late ? overloaded() : undefined);
    });
  },
  { name: 'load-shedding' },
);

function overloaded(): AppError {
  return new AppError('overloaded', 'This process is overloaded; try again', {
    retryAfterSeconds: RETRY_AFTER_SECONDS,
  });
}
