import type { Logger } from 'pino';
import { AppError } from '../../errors.ts';
import { inTime } from '../../lib/in-time.ts';
import type { Metrics } from '../../observability/metrics.ts';
import type { Db, Query } from '../postgres.ts';
import { UNKNOWN_POSITION } from './write-positions.ts';
import type { WriteMarks } from './write-positions.ts';
import { createReplicaWatch, padPosition } from './monitor.ts';

export interface ReplicaReader {
  /**
   * For reads that may be a few seconds old, but never older than the tenant's own last write. Anything
   * that keeps the replica from answering well is answered by the primary.
   */
  read<Row extends object>(tenant: string, query: Query): Promise<Row[]>;
  /**
   * To be awaited after each commit of a tenant's write and before it is answered. Never rejects: the write
   * is done. It takes no transaction on purpose: a position read inside of one lies before its commit
   * record, and a replica may have replayed that far without the write being visible. `requestId` is for the log.
   */
  markWrite(tenant: string, requestId?: string): Promise<void>;
  /** Measured anew when the last measurement is older than a second; 0 without a replica. */
  lagSeconds(): Promise<number>;
}

/** How long the replica may be silent before a read asks whether it is still there. */
const PATIENCE_MS = 500;
/** Marks may have been lost for as long as a replica may lag behind them. */
const DISTRUST_MS = 10_000;

/**
 * Routes reads to a replica. `replica` is one standby: a balancer over several would answer the question
 * "how far are you?" for another one than it reads from. Without it everything goes to the primary, at no
 * cost. Marks kept by one process only (createLocalMarks) make the promise for that process's writes.
 */
export function createReplicaReader(
  { primary, replica, marks }: { primary: Db; replica?: Db | undefined; marks: WriteMarks },
  { log, metrics }: { log: Logger; metrics: Metrics },
): ReplicaReader {
  if (!replica) {
    return {
      read: (_tenant, query) => primary.query(query),
      markWrite: async () => undefined,
      lagSeconds: async () => 0,
    };
  }
  const watch = createReplicaWatch({ primary, replica }, { log, metrics });
  let distrustUntil = -Infinity;

  return {
    async read<Row extends object>(tenant: string, query: Query) {
      watch.keepCurrent();
      if (!watch.usable() || !(await hasReplayedWrites(tenant))) return primary.query<Row>(query);
      try {
        return await patiently(replica.query<Row>(query));
      } catch (err) {
        // Too slow for one is too slow for the other. Everything else, such as a table that the replica
        // does not have yet or a conflict with its recovery, deserves the primary's answer.
        if (err instanceof AppError && err.code === 'timeout') throw err;
        if (err instanceof AppError) watch.lost(err);
        return primary.query<Row>(query);
      }
    },

    async markWrite(tenant, requestId) {
      const position = await currentPosition();
      try {
        await marks.set(tenant, position);
      } catch (err) {
        log.warn(
          { error: err, request_id: requestId },
          'a write could not be marked: other processes may read the state before it',
        );
        distrust();
      }
    },

    lagSeconds: () => watch.lagSeconds(),
  };

  /** The insert position, because the flushed one may lie before a commit made with synchronous_commit=off. */
  async function currentPosition(): Promise<string> {
    try {
      const [row] = await primary.query<{ position: string }>({
        name: 'replica_write_position',
        text: 'select pg_current_wal_insert_lsn()::text as position',
      });
      return padPosition(row?.position) ?? UNKNOWN_POSITION;
    } catch {
      return UNKNOWN_POSITION;
    }
  }

  async function hasReplayedWrites(tenant: string): Promise<boolean> {
    const mark = marks.get(tenant);
    if (performance.now() < distrustUntil) {
      // Not waited for, but seen: each failure prolongs the distrust.
      mark.catch(distrust);
      return false;
    }
    try {
      return await watch.hasReplayed(await mark);
    } catch {
      distrust();
      return false;
    }
  }

  function distrust(): void {
    distrustUntil = performance.now() + DISTRUST_MS;
  }

  /** Waits as long as the replica is there; a frozen one would keep a read until its statement timeout. */
  async function patiently<Row>(answer: Promise<Row[]>): Promise<Row[]> {
    for (;;) {
      const rows = await inTime(answer, PATIENCE_MS);
      if (rows) return rows;
      await watch.measure();
      if (!watch.usable()) throw new AppError('unavailable', 'The service is temporarily unavailable');
    }
  }
}
