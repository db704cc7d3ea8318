import underPressure from '@fastify/under-pressure';
import fp from 'fastify-plugin';
import { AppError } from '../errors.ts';

const RETRY_AFTER_SECONDS = 2;

/** The plugin makes its error once, with a class. */
class Overloaded extends AppError {
  constructor() {
    super('overloaded', 'This process is overloaded; try again', { retryAfterSeconds: RETRY_AFTER_SECONDS });
  }
}

/**
 * When the event loop runs late, more work makes every request late: the ones that come are told
 * to come back, so that those already taken are finished. Not for probes: a busy process is alive.
 */
export const loadShedding = fp<{ maxEventLoopDelayMs: number }>(
  async (app, { maxEventLoopDelayMs }) => {
    if (maxEventLoopDelayMs === 0) return;
    await app.register(underPressure, {
      maxEventLoopDelay: maxEventLoopDelayMs,
      sampleInterval: 500,
      customError: Overloaded,
      retryAfter: RETRY_AFTER_SECONDS,
    });
  },
  { name: 'load-shedding' },
);
