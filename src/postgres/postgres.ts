/**
 * Postgres: statements, transactions, and what is left when Postgres is away.
 *
 * `pool` keeps connections, `session` is one connection with the settings that the service relies on, `transaction`
 * is one try of BEGIN, work, COMMIT. `errors` turns driver errors into codes. `replica/` reads from a replica what
 * may be a little old.
 *
 * Failures: every wait ends, for a connection within POOL_WAIT_TIMEOUT_MS and for a statement within
 * QUERY_TIMEOUT_SECONDS. A connection that did not respond is dropped. The request gets 503 or 504, and the next
 * statement finds its way back by itself. `outage` notices a Postgres that is silent, so that requests fail at once
 * instead of waiting.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import type { PoolOptions } from './pool.ts';
import { isRetryable } from './errors.ts';
import { createSessions } from './session.ts';
import type { Session, SessionDeps, Sessions, Statement } from './session.ts';
import { runTransaction, type Query, type Tx } from './transaction.ts';

export type { Query, Tx } from './transaction.ts';

export interface Db extends Tx {
  /**
   * BEGIN, `work`, COMMIT; ROLLBACK when `work` throws. A serialization failure or a deadlock runs `work`
   * again, three times in all, so it must have no effect outside of `tx`.
   */
  transaction<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
  /** Health checks, on a connection of their own: a busy pool is not an outage. */
  checks: Tx;
  stats(): { size: number; max: number; active: number; idle: number; waiting: number };
  /** Waits a few seconds for what is running, then cuts it off. */
  close(): Promise<void>;
}

const TRIES = 3;
const CHECK_TIMEOUT_MS = 1_000;
/** Of each process, beside its pool. */
export const CONNECTIONS_OF_CHECKS = 1;

const BUSY = `select pid from pg_stat_activity where pid = any($1) and
  coalesce(state not like 'idle%' or state_change > clock_timestamp() - interval '1 second', true)`;

/**
 * A pool of connections to one Postgres. Nothing connects before the first query, and every query finds
 * its own way back after an outage. Failures that are not about the statement are AppErrors: `unavailable`
 * (no connection, connection lost, a lock not had in time, deadlocks) and `timeout`. A statement outside of
 * a transaction whose connection breaks may have been executed.
 *
 * Values arrive as pg parses them: int8 and numeric as strings, because a JavaScript number silently
 * changes integers above 2^53, and timestamptz as Date.
 */
export function openPostgres(options: PoolOptions, deps: SessionDeps): Db {
  const { applicationName, pgbouncer } = options;
  const ofChecks = {
    poolMax: CONNECTIONS_OF_CHECKS,
    poolWaitMs: CHECK_TIMEOUT_MS,
    queryTimeoutMs: CHECK_TIMEOUT_MS,
  };
  const checks = createSessions(
    { ...options, ...ofChecks, applicationName: `${applicationName}-checks` },
    deps,
  );
  // PgBouncer does not tell which backend has a statement.
  const sessions = createSessions(options, deps, pgbouncer ? undefined : findBusy);

  return {
    query: <Row extends object>(query: Query) =>
      retrying((named) =>
        withSession<Row[]>(sessions, (session) => alone(session, named ? query : unnamed(query))),
      ),

    transaction: (work) =>
      retrying((named) => withSession(sessions, (session) => runTransaction(session, work, named))),

    checks: {
      query: <Row extends object>(query: Query) =>
        withSession<Row[]>(checks, (session) => alone(session, query)),
    },

    stats: sessions.stats,
    close: async () => void (await Promise.all([sessions.close(), checks.close()])),
  };

  /** Which of these backends are at work, or were until a moment ago. */
  async function findBusy(pids: number[]): Promise<Set<number>> {
    const rows = await withSession(checks, (session) =>
      alone<{ pid: number }>(session, { name: 'busy_backends', text: BUSY, values: [pids] }),
    );
    return new Set(rows.map(({ pid }) => pid));
  }
}

async function withSession<T>(from: Sessions, use: (session: Session) => Promise<T>): Promise<T> {
  const session = await from.checkOut();
  try {
    return await use(session);
  } finally {
    session.release();
  }
}

async function alone<Row extends object>(session: Session, query: Statement): Promise<Row[]> {
  return (await session.runAlone(query)).rows as Row[];
}

/** Runs again what Postgres rolled back, and says so, for a reason that another try can escape. */
async function retrying<T>(run: (named: boolean) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      // Named at first only: a plan that a migration made useless may wait on the next connection, too.
      return await run(attempt === 1);
    } catch (err) {
      if (attempt === TRIES || !isRetryable(err)) throw err;
      await sleep(Math.random() * 20 * 2 ** attempt);
    }
  }
}

function unnamed({ text, values }: Query): Omit<Query, 'name'> {
  return { text, ...(values && { values }) };
}
