import { setTimeout as sleep } from 'node:timers/promises';
import type { PoolOptions } from './postgres-pool.ts';
import { isRetryable, noConnection } from './postgres-errors.ts';
import { createSessions } from './postgres-session.ts';
import type { Session, SessionDeps } from './postgres-session.ts';
import { runTransaction } from './postgres-transaction.ts';

/** `name` is the prepared statement's: stable, and unique to its text. */
export interface Query {
  name: string;
  text: string;
  values?: unknown[];
}

export interface Tx {
  /** Rows only: what a statement changed is learned from its `returning`. */
  query<Row extends object>(query: Query): Promise<Row[]>;
}

export interface Db extends Tx {
  /**
   * BEGIN, `work`, COMMIT; ROLLBACK when `work` throws. A serialization failure or a deadlock runs `work`
   * again, three times in all, so it must have no effect outside of `tx`.
   */
  transaction<T>(work: (tx: Tx) => Promise<T>): Promise<T>;
  /** Rejects within `timeoutMs`, also when Postgres is frozen or every connection is in use. */
  ping(timeoutMs: number): Promise<void>;
  stats(): { size: number; max: number; active: number; idle: number; waiting: number };
  /** Waits a few seconds for what is running, then cuts it off. */
  close(): Promise<void>;
}

const TRIES = 3;

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
  const sessions = createSessions(options, deps);

  return {
    query: <Row extends object>(query: Query) =>
      retrying((named) =>
        withSession<Row[]>(async (session) => (await session.runAlone(named ? query : unnamed(query))).rows),
      ),

    transaction: (work) =>
      retrying((named) => withSession((session) => runTransaction(session, work, named))),

    async ping(timeoutMs) {
      let late = false;
      const answer = withSession(async (session) => {
        if (!late) await session.runAlone({ text: 'select 1', timeoutMs });
      });
      const deadline = sleep(timeoutMs, undefined, { ref: false }).then(() => {
        late = true;
        throw noConnection(new Error('Postgres did not answer a ping in time'));
      });
      await Promise.race([answer, deadline]);
    },

    stats: sessions.stats,
    close: sessions.close,
  };

  async function withSession<T>(use: (session: Session) => Promise<T>): Promise<T> {
    const session = await sessions.checkOut();
    try {
      return await use(session);
    } finally {
      session.release();
    }
  }
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
