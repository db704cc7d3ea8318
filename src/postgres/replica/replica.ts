import type { Logger } from 'pino';
import { AppError } from '../../errors.ts';
import { withTimeout } from '../../lib/timeouts.ts';
import type { Metrics } from '../../observability/metrics.ts';
import type { Db, Query } from '../postgres.ts';
import { createReplicaMonitor, padPosition } from './monitor.ts';
import { UNKNOWN_POSITION, type WritePositions } from './write-positions.ts';

export interface ReplicaReader {
  /**
   * For reads that may be a few seconds old, but never older than the tenant's own last write. The primary is read
   * if anything is wrong with the replica.
   */
  read<Row extends object>(tenant: string, query: Query): Promise<Row[]>;
  /**
   * To be awaited after each commit of a tenant's write and before its response. Never rejects: the write is done. It
   * takes no transaction on purpose: a position read inside of one lies before its commit record, and a replica may
   * have replayed that far without the write being visible. `requestId` is for the log.
   */
  recordWritePosition(tenant: string, requestId?: string): Promise<void>;
  /** Measured anew if the last measurement is older than a second; 0 without a replica. */
  lagSeconds(): Promise<number>;
}

/** After so long a read checks whether the replica is still there. */
const CHECK_AFTER_MS = 500;
/** Positions may have been lost for as long as a replica may lag behind them. */
const DISTRUST_MS = 10_000;

/**
 * Routes reads to a replica. `replica` is one standby: behind a balancer over several the position would be that of
 * another one than is read. Without it everything goes to the primary, at no cost. Without a Redis for the positions
 * only writes of this process are seen at once.
 */
export function createReplicaReader(
  { primary, replica, positions }: { primary: Db; replica?: Db | undefined; positions: WritePositions },
  { log, metrics }: { log: Logger; metrics: Metrics },
): ReplicaReader {
  if (!replica) {
    return {
      read: (_tenant, query) => primary.query(query),
      recordWritePosition: async () => undefined,
      lagSeconds: async () => 0,
    };
  }
  const monitor = createReplicaMonitor({ primary, replica }, { log, metrics });
  let distrustUntil = -Infinity;

  function distrust(): void {
    distrustUntil = performance.now() + DISTRUST_MS;
  }

  /** The insert position, because the flushed one may lie before a commit made with synchronous_commit=off. */
  async function currentPosition(): Promise<string> {
    const rows = await primary
      .query<{ position: string }>({
        name: 'replica_write_position',
        text: 'select pg_current_wal_insert_lsn()::text as position',
      })
      .catch(() => []);
    return padPosition(rows[0]?.position) ?? UNKNOWN_POSITION;
  }

  async function hasReplayedWrites(tenant: string): Promise<boolean> {
    const position = positions.get(tenant);
    // Not waited for, and each failure prolongs the distrust.
    if (performance.now() < distrustUntil) {
      position.catch(distrust);
      return false;
    }
    try {
      return await monitor.hasReplayed(await position);
    } catch {
      distrust();
      return false;
    }
  }

  /** Waits as long as the replica is there: a frozen one would keep a read until its statement timeout. */
  async function whileAlive<Row>(reading: Promise<Row[]>): Promise<Row[]> {
    for (;;) {
      const rows = await withTimeout(reading, CHECK_AFTER_MS);
      if (rows) return rows;
      await monitor.measure();
      if (!monitor.usable()) throw new AppError('unavailable', 'The service is temporarily unavailable');
    }
  }

  return {
    lagSeconds: monitor.lagSeconds,

    async read<Row extends object>(tenant: string, query: Query) {
      monitor.keepCurrent();
      if (!monitor.usable() || !(await hasReplayedWrites(tenant))) return primary.query<Row>(query);
      try {
        return await whileAlive(replica.query<Row>(query));
      } catch (error) {
        // Too slow for one is too slow for the other. For everything else, such as a table that the replica
        // does not have yet or a conflict with its recovery, the primary is read.
        if (error instanceof AppError && error.code === 'timeout') throw error;
        if (error instanceof AppError) monitor.lost(error);
        return primary.query<Row>(query);
      }
    },

    async recordWritePosition(tenant, requestId) {
      const position = await currentPosition();
      try {
        await positions.set(tenant, position);
      } catch (error) {
        log.warn(
          { error, request_id: requestId },
          'the position of a write could not be recorded: other processes may read the state before it',
        );
        distrust();
      }
    },
  };
}
