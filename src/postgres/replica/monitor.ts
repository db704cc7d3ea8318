import { performance } from 'node:perf_hooks';
import type { Logger } from 'pino';
import { withTimeout } from '../../lib/timeouts.ts';
import { shareRun } from '../../lib/single-flight.ts';
import type { Metrics } from '../../observability/metrics.ts';
import type { Db } from '../postgres.ts';

const MEASURE_EVERY_MS = 1000;
const TIMEOUT_MS = 500;
const LAG_MAX_MS = 10_000;

/**
 * Knows whether the replica can be read and how far it is. It measures when it is called, at most once a second, and
 * no read waits for that: before the first measurement the replica is not usable.
 *
 * The lag is an upper bound. The standby's own clock of replay stands still while there are no writes, and its
 * receiver looks up to date when it is cut off, so it is compared with the position of the primary.
 */
export function createReplicaMonitor(
  { primary, replica }: { primary: Db; replica: Db },
  { log, metrics }: { log: Logger; metrics: Metrics },
) {
  const startedAt = performance.now();
  /** Everything committed by this moment is known to be replayed. */
  let currentAsOf = -Infinity;
  let measuredAt = -Infinity;
  let lagMs = 0;
  let alive = false;
  let loggedUsable = false;
  let replayed = '';

  // One query under way to each server, so that a frozen one does not collect connections.
  const queryPrimary = shareRun(async () => {
    const sentAt = performance.now();
    const [row] = await primary.query<{ position: string }>({
      name: 'replica_primary_position',
      text: 'select pg_current_wal_flush_lsn()::text as position',
    });
    return { sentAt, position: padPosition(row?.position) };
  });
  const queryReplica = shareRun(async () => {
    const sentAt = performance.now();
    const [row] = await replica.query<{ position: string | null; age: number | null }>({
      name: 'replica_position',
      text: `select pg_last_wal_replay_lsn()::text as position,
                    extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::float8 as age`,
    });
    return { sentAt, position: padPosition(row?.position), ageSeconds: row?.age };
  });

  const measure = shareRun(async () => {
    measuredAt = performance.now();
    // If the primary is too busy to reply, it must not get the replica's reads on top.
    const there = await withTimeout(queryPrimary(), TIMEOUT_MS).catch(() => undefined);
    let failure: unknown;
    const here = await locateReplica().catch((error: unknown) => void (failure = error));
    // Right while there are writes, and as far as the clocks of the two servers agree.
    if (here && typeof here.ageSeconds === 'number')
      currentAsOf = Math.max(currentAsOf, here.sentAt - Math.max(0, here.ageSeconds) * 1000);
    // Right while there are none.
    if (here && there?.position && here.position >= there.position)
      currentAsOf = Math.max(currentAsOf, there.sentAt);
    measuredAt = performance.now();
    lagMs = measuredAt - Math.max(currentAsOf, startedAt);
    metrics.replicaLag.set(lagMs / 1000);
    logChange(failure);
  });

  async function locateReplica() {
    try {
      const here = await withTimeout(queryReplica(), TIMEOUT_MS);
      if (!here) throw new Error('the replica did not reply in time');
      if (!here.position) throw new Error('DATABASE_URL_REPLICA is not a standby');
      // Started again, or another one in its place: what was known of it counts no more.
      if (!alive || here.position < replayed) currentAsOf = -Infinity;
      alive = true;
      replayed = here.position;
      return { ...here, position: here.position };
    } catch (error) {
      alive = false;
      throw error;
    }
  }

  function usable(): boolean {
    return alive && performance.now() - currentAsOf <= LAG_MAX_MS;
  }

  const isDue = () => performance.now() - measuredAt > MEASURE_EVERY_MS;

  function logChange(error: unknown): void {
    if (usable() === loggedUsable) return;
    loggedUsable = usable();
    const fields = { lagSeconds: lagMs / 1000 };
    if (loggedUsable) log.info(fields, 'reads go to the replica');
    else log.warn({ ...fields, error }, 'reads go to the primary: the replica is away or too far behind');
  }

  return {
    measure,
    usable,

    /** Starts a measurement if one is due, and does not wait. */
    keepCurrent(): void {
      if (isDue()) void measure();
    },

    /** Rejects, or resolves to false, if the replica does not say so in time. */
    async hasReplayed(position: string | undefined): Promise<boolean> {
      if (position === undefined || position <= replayed) return true;
      await locateReplica();
      return alive && position <= replayed;
    },

    /** A read failed before the next measurement. */
    lost(error: unknown): void {
      alive = false;
      logChange(error);
    },

    async lagSeconds(): Promise<number> {
      if (isDue()) await measure();
      return lagMs / 1000;
    },
  };
}

/** pg_lsn text in a form that sorts as a string: '16/B374D848' → '00000016/B374D848'. */
export function padPosition(position: string | null | undefined): string | undefined {
  return position
    ?.split('/')
    .map((half) => half.padStart(8, '0'))
    .join('/');
}
