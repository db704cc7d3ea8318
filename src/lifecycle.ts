import type { Logger } from 'pino';
import { setTimeout as sleep } from 'node:timers/promises';

/** Whether this process is on its way out: readiness answers 503 and answers carry `Connection: close`. */
export interface Lifecycle {
  draining: boolean;
}

export interface ShutdownParts {
  lifecycle: Lifecycle;
  drainDelayMs: number;
  shutdownTimeoutMs: number;
  log: Logger;
  /** Stops listening and resolves when the last request in flight was answered. */
  closeListeners: () => Promise<void>;
  /** Cuts what is still open when the budget is spent. */
  cutConnections: () => void;
  /** What is closed after the last request, in this order: batches, Redis, Postgres. */
  closers: { name: string; close: () => Promise<void> }[];
}

/** Time for the closers after the last request; part of the sum that grace periods must hold. */
export const CLOSE_BUDGET_MS = 5_000;

/** The longest that a shutdown may take before the process is ended by force, in ms. */
export function shutdownBudgetMs(config: { drainDelayMs: number; shutdownTimeoutMs: number }): number {
  return config.drainDelayMs + config.shutdownTimeoutMs + CLOSE_BUDGET_MS;
}

/**
 * The way out, in the order that loses nothing: readiness says 503 while every route goes on (load
 * balancers need the drain delay to notice), then no new connections, then the requests in flight,
 * then what they used. Resolves to true when no request had to be cut.
 */
export async function shutDown(parts: ShutdownParts): Promise<boolean> {
  const { lifecycle, log } = parts;
  lifecycle.draining = true;
  log.info({ drain_delay_ms: parts.drainDelayMs }, 'draining');
  await sleep(parts.drainDelayMs);

  const finished = await within(parts.shutdownTimeoutMs, parts.closeListeners());
  if (!finished) {
    log.error({ shutdown_timeout_ms: parts.shutdownTimeoutMs }, 'requests were still in flight and are cut');
    parts.cutConnections();
  }
  for (const { name, close } of parts.closers) {
    if (!(await within(CLOSE_BUDGET_MS / parts.closers.length, close())))
      log.warn({ part: name }, 'did not close in time');
  }
  log.info('stopped');
  return finished;
}

async function within(budgetMs: number, work: Promise<void>): Promise<boolean> {
  const timer = new AbortController();
  try {
    return await Promise.race([
      work.then(() => true),
      sleep(budgetMs, false, { signal: timer.signal }).catch(() => false),
    ]);
  } finally {
    timer.abort();
  }
}
