import type { Session } from './session.ts';
import { AppError } from '../errors.ts';
import { isRefusal, toAppError, unknownOutcome } from './errors.ts';

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

/** How long a ROLLBACK may take; the connection is dropped otherwise, which rolls back as well. */
const ROLLBACK_TIMEOUT_MS = 1000;

/**
 * One try of a transaction. Resolves only when Postgres answered COMMIT with COMMIT: to a transaction
 * that failed before, also when `work` swallowed the failure, it answers ROLLBACK and calls that a success.
 */
export async function runTransaction<T>(
  session: Session,
  work: (tx: Tx) => Promise<T>,
  named: boolean,
): Promise<T> {
  let over = false;
  let failure: unknown;

  const tx: Tx = {
    async query({ name, ...statement }) {
      // The connection may be someone else's by now.
      if (over) throw new Error('A query came after its transaction was over: await it inside the work');
      try {
        const { rows } = await session.run(named ? { name, ...statement } : statement);
        return rows;
      } catch (err) {
        failure ??= err;
        throw err;
      }
    },
  };

  try {
    await session.begin();
    const result = await work(tx);
    over = true;
    await commit(session, failure);
    return result;
  } catch (err) {
    over = true;
    if (session.brokenBy() === undefined) {
      await session.run({ text: 'rollback', timeoutMs: ROLLBACK_TIMEOUT_MS }).catch(() => undefined);
    }
    throw err;
  }
}

async function commit(session: Session, failure: unknown): Promise<void> {
  const lost = session.brokenBy();
  if (lost !== undefined) throw toAppError(lost);
  const { command } = await session.run({ text: 'commit' }).catch((err: unknown) => {
    const cause = err instanceof AppError ? err.cause : err;
    throw isRefusal(cause) ? err : unknownOutcome(cause);
  });
  if (command !== 'COMMIT')
    throw failure ?? new Error('The transaction was rolled back instead of committed');
}
