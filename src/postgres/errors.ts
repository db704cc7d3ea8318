import { DatabaseError } from 'pg';
import { AppError } from '../errors.ts';

/** Seconds after which a retry makes sense. A failover takes longest; a queue is shorter a second later. */
const RETRY_AFTER = { busy: 1, lost: 2, full: 5, failover: 5 };

/**
 * Turns what Postgres, pg or the network reports into what a client may know; the original stays as
 * `cause`. Errors that say something about the statement (constraints, syntax) come back unchanged: a
 * repository answers the first with `constraintOf`, the second are bugs.
 */
export function toAppError(err: unknown): unknown {
  if (err instanceof AppError) return err;
  if (!(err instanceof DatabaseError)) {
    if (isClientTimeout(err)) return timeout(err);
    return isConnectionLoss(err) ? unavailable(err, RETRY_AFTER.lost) : err;
  }
  switch (err.code) {
    case '57014': // query_canceled: statement_timeout
    case '25P03': // idle_in_transaction_session_timeout
    case '25P04': // transaction_timeout
      return timeout(err);
    case '55P03': // lock_not_available
    case '40001': // serialization_failure
    case '40P01': // deadlock_detected
      return busy(err);
    case '53100': // disk_full
      return unavailable(err, RETRY_AFTER.full);
    case '25006': // read_only_sql_transaction: the primary was demoted under us
      return unavailable(err, RETRY_AFTER.failover);
    case '26000': // invalid_sql_statement_name
    case '42P05': // duplicate_prepared_statement
      return behindPgBouncer(err);
    case '53200': // out_of_memory
    case '53300': // too_many_connections
      return unavailable(err, RETRY_AFTER.lost);
    default:
      return isConnectionLoss(err) || isStalePlan(err) ? unavailable(err, RETRY_AFTER.lost) : err;
  }
}

/** What the pool says when all connections were in use for too long. */
export const NO_CONNECTION = 'timeout exceeded when trying to connect';

/** A connection could not be had. Why (refused, no such host, bad password, all in use) is for the log only. */
export function noConnection(err: unknown): AppError {
  if (err instanceof Error && /unsupported startup parameter/.test(err.message)) return behindPgBouncer(err);
  const exhausted = err instanceof Error && err.message === NO_CONNECTION;
  return exhausted ? busy(err) : unavailable(err, RETRY_AFTER.lost);
}

/**
 * The connection broke between sending COMMIT and its answer. Not `unavailable`: that invites a retry,
 * and the change may have been saved.
 */
export function unknownOutcome(err: unknown): AppError {
  return new AppError('timeout', 'It is unknown whether the change was saved; read before repeating it', {
    cause: err,
  });
}

/** Name of the constraint that refused a row: unique, foreign key, check or exclusion. */
export function constraintOf(err: unknown): string | undefined {
  const violation = err instanceof DatabaseError && /^(23505|23503|23514|23P01)$/.test(err.code ?? '');
  return violation ? err.constraint : undefined;
}

/** Whether the same transaction may succeed when run again: Postgres rolled it back and says so. */
export function isRetryable(err: unknown): boolean {
  for (let cause = err; cause instanceof Error; cause = cause.cause) {
    if (cause instanceof DatabaseError)
      return /^(40001|40P01)$/.test(cause.code ?? '') || isStalePlan(cause) || isIdleClose(cause);
  }
  return false;
}

/**
 * Whether a connection must not be used again after this error: it is gone, still busy with a statement
 * nobody waits for, attached to a demoted primary, or holds a plan that a migration made useless.
 */
export function breaksConnection(err: unknown): boolean {
  if (!(err instanceof DatabaseError)) return isConnectionLoss(err) || isClientTimeout(err);
  return (
    isConnectionLoss(err) || isStalePlan(err) || /^(25006|25P03|25P04|26000|42P05)$/.test(err.code ?? '')
  );
}

/** The server closed a session that nobody used (`idle_session_timeout`, PgBouncer's `client_idle_timeout`). */
export function isIdleClose(err: unknown): boolean {
  return err instanceof DatabaseError && (err.code === '57P05' || err.message === 'client_idle_timeout');
}

/** "cached plan must not change result type": a named statement outlived a change of its columns. */
export function isStalePlan(err: unknown): boolean {
  return err instanceof DatabaseError && err.code === '0A000' && err.routine === 'RevalidateCachedQuery';
}

/** Postgres itself said no, and lives on. After anything else, a COMMIT may have been done. */
export function isRefusal(err: unknown): boolean {
  return err instanceof DatabaseError && !isConnectionLoss(err);
}

export function isConnectionLoss(err: unknown): boolean {
  if (err instanceof DatabaseError) return /^(08|57P)/.test(err.code ?? '');
  if (!(err instanceof Error)) return false;
  // pg gives its own connection errors no code: only their texts tell them apart.
  return 'syscall' in err || /^(Connection terminated|Client (has encountered|was closed))/.test(err.message);
}

export function isClientTimeout(err: unknown): boolean {
  return err instanceof Error && err.message === 'Query read timeout';
}

function timeout(cause: unknown): AppError {
  return new AppError('timeout', 'The request took too long', { cause });
}

function busy(cause: unknown): AppError {
  return new AppError('unavailable', 'The service is busy; try again', {
    cause,
    retryAfterSeconds: RETRY_AFTER.busy,
  });
}

function unavailable(cause: unknown, retryAfterSeconds: number): AppError {
  return new AppError('unavailable', 'The service is temporarily unavailable', { cause, retryAfterSeconds });
}

function behindPgBouncer(cause: unknown): AppError {
  const hint = 'There is a PgBouncer between the service and Postgres: set DATABASE_PGBOUNCER=true';
  return unavailable(new Error(hint, { cause }), RETRY_AFTER.lost);
}
