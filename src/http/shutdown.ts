import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Server } from 'node:http';
import type { Logger } from 'pino';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { withTimeout } from '../lib/timeouts.ts';

/** A request from its first hook to the end of its response. */
export interface RunningRequest {
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
  /** On the clock of `performance.now()`. */
  readonly startedMs: number;
  /** Its place in `running`. */
  index: number;
  /** Took longer than REQUEST_TIMEOUT_SECONDS, and was ended. */
  timedOut: boolean;
}

export interface Lifecycle {
  /** On its way out: readiness answers 503 and answers carry `Connection: close`. */
  draining: boolean;
  /**
   * What is being worked on, in no order. A Set that fills and empties with every turn of the event loop would be
   * rebuilt as often, and its old tables keep requests alive until the next full garbage collection.
   */
  readonly running: RunningRequest[];
}

export function createLifecycle(): Lifecycle {
  return { draining: false, running: [] };
}

export interface ShutdownParts {
  lifecycle: Lifecycle;
  drainDelayMs: number;
  shutdownTimeoutMs: number;
  log: Logger;
  server: Server;
  /** Resolves when nothing listens and the last connection was closed. */
  closeListeners: () => Promise<void>;
  /** Cuts the connections that are still open. */
  cutConnections: () => void;
  /** What is closed after the last request, in this order: batches, Redis, Postgres. */
  closers: { name: string; close: () => Promise<void> }[];
}

/** Time for the closers after the last request; part of the sum that grace periods must hold. */
export const CLOSE_BUDGET_MS = 5_000;

/** How long a connection without a request may stay, once nothing is in flight: one may be on its way. */
const LAST_CALL_MS = 500;
const POLL_MS = 50;

/** In so short a turn of the event loop hardly a connection can have come after the last one was accepted. */
const QUIET_TURN_MS = 0.5;
/** An overloaded process has no such turn, and stops listening all the same. */
const QUIET_WITHIN_MS = 1_000;

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
  // Those that begin from now on say so themselves.
  for (const { reply } of lifecycle.running) reply.header('connection', 'close');
  log.info({ drain_delay_ms: parts.drainDelayMs }, 'draining');
  await sleep(parts.drainDelayMs);

  const finished = await within(parts.shutdownTimeoutMs, finishRequests(parts));
  if (!finished) {
    log.error({ shutdown_timeout_ms: parts.shutdownTimeoutMs }, 'requests were still in flight and are cut');
  }
  parts.cutConnections();
  const deadlineMs = performance.now() + CLOSE_BUDGET_MS;
  for (const [index, { name, close }] of parts.closers.entries()) {
    // Of what is left: most take no time at all, and the last ones wait for servers.
    const shareMs = (deadlineMs - performance.now()) / (parts.closers.length - index);
    const closed = within(shareMs, close());
    // One that fails must not keep the next from being closed.
    const ended = await closed.catch((error: unknown) => log.warn({ part: name, error }, 'failed to close'));
    if (ended === false) log.warn({ part: name }, 'did not close in time');
  }
  log.info('stopped');
  return finished;
}

async function finishRequests({ server, closeListeners, lifecycle }: ShutdownParts): Promise<void> {
  await stopListening(server);
  await Promise.race([closeListeners(), nothingInFlight(lifecycle)]);
}

/**
 * Closes the listening socket while no connection waits in it. The kernel completes a connection before Node accepts
 * it, and resets those that still wait when the socket closes. A balancer may have sent a request on one, and repeats
 * no POST. Node accepts one connection in a turn of the event loop: after a turn without one, none waits.
 */
async function stopListening(server: Server): Promise<void> {
  let accepted = false;
  server.on('connection', () => (accepted = true));
  const endMs = performance.now() + QUIET_WITHIN_MS;
  // What has arrived is read first: a connection with a request is not idle.
  await nextTurn();
  server.closeIdleConnections();
  for (;;) {
    accepted = false;
    const turnMs = performance.now();
    await nextTurn();
    const nowMs = performance.now();
    if ((!accepted && nowMs - turnMs < QUIET_TURN_MS) || nowMs > endMs) break;
  }
  server.close();
}

/**
 * Node stops looking for late requests when it stops listening: a connection that was opened and says
 * nothing, or says half a request, would hold the process until its budget is spent.
 */
async function nothingInFlight({ running }: Lifecycle): Promise<void> {
  do {
    while (running.length > 0) await sleep(POLL_MS);
    await sleep(LAST_CALL_MS);
    // After a pause of the process the timer comes before what has arrived.
    await nextTurn();
  } while (running.length > 0);
}

async function within(budgetMs: number, work: Promise<void>): Promise<boolean> {
  return (
    (await withTimeout(
      work.then(() => true),
      budgetMs,
    )) ?? false
  );
}
