import { performance } from 'node:perf_hooks';
import type { Logger } from 'pino';
import { inTime } from '../../lib/in-time.ts';
import type { Metrics } from '../../observability/metrics.ts';
import type { Db } from '../postgres.ts';

const MEASURE_EVERY_MS = 1000;
const ANSWER_WITHIN_MS = 500;
const LAG_MAX_MS = 10_000;

/**
 * Knows whether the replica answers and how far it is. It measures when it is asked, at most once a second,
 * and no read waits for that: while nothing is known the replica is not usable.
 *
 * The lag is an upper bound. The standby's own clock of replay stands still while nobody writes, and its
 * receiver looks up to date when it is cut off, so it is compared with where the primary is.
 */
export function createReplicaWatch(
  { primary, replica }: { primary: Db; replica: Db },
  { log, metrics }: { log: Logger; metrics: Metrics },
) {
  const startedAt = performance.now();
  /** Everything committed by this moment is known to be replayed. */
  let currentAsOf = -Infinity;
  let measuredAt = -Infinity;
  let lagMs = 0;
  let alive = false;
  let saidUsable = false;
  let replayed = '';

  const measure = shared(measureNow);
  // One outstanding question to each server, so that a frozen one does not collect connections.
  const askPrimary = shared(async () => {
    const askedAt = performance.now();
    const [row] = await primary.query<{ position: string }>({
      name: 'replica_primary_position',
      text: 'select pg_current_wal_flush_lsn()::text as position',
    });
    return { askedAt, position: padPosition(row?.position) };
  });
  const askReplica = shared(async () => {
    const askedAt = performance.now();
    const [row] = await replica.query<{ position: string | null; age: number | null }>({
      name: 'replica_position',
      text: `select pg_last_wal_replay_lsn()::text as position,
                    extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::float8 as age`,
    });
    return { askedAt, position: padPosition(row?.position), ageSeconds: row?.age };
  });

  return {
    measure,
    usable,

    /** Starts a measurement when one is due, and does not wait. */
    keepCurrent(): void {
      if (performance.now() - measuredAt > MEASURE_EVERY_MS) void measure();
    },

    /** Rejects, or answers false, when that is not known soon. */
    async hasReplayed(position: string | undefined): Promise<boolean> {
      if (position === undefined || position <= replayed) return true;
      await locateReplica();
      return alive && position <= replayed;
    },

    /** A read has found out before the next measurement. */
    lost(err: unknown): void {
      alive = false;
      say(err);
    },

    async lagSeconds(): Promise<number> {
      if (performance.now() - measuredAt > MEASURE_EVERY_MS) await measure();
      return lagMs / 1000;
    },
  };

  function usable(): boolean {
    return alive && performance.now() - currentAsOf <= LAG_MAX_MS;
  }

  async function measureNow(): Promise<void> {
    measuredAt = performance.now();
    // A primary that is too busy to say where it is must not get the replica's reads on top.
    const there = await inTime(askPrimary(), ANSWER_WITHIN_MS).catch(() => undefined);
    let failure: unknown;
    const here = await locateReplica().catch((err: unknown) => {
      failure = err;
      return undefined;
    });
    if (here) {
      // Right while somebody writes, and as far as the clocks of the two servers agree.
      if (typeof here.ageSeconds === 'number') advance(here.askedAt - Math.max(0, here.ageSeconds) * 1000);
      // Right while nobody writes.
      if (there?.position && here.position >= there.position) advance(there.askedAt);
    }
    measuredAt = performance.now();
    lagMs = measuredAt - Math.max(currentAsOf, startedAt);
    metrics.replicaLag.set(lagMs / 1000);
    say(failure);
  }

  async function locateReplica() {
    try {
      const here = await inTime(askReplica(), ANSWER_WITHIN_MS);
      if (!here) throw new Error('the replica did not answer in time');
      if (!here.position) throw new Error('DATABASE_URL_REPLICA is not a standby');
      // Started again, or another one in its place: what was known of it counts no more.
      if (!alive || here.position < replayed) currentAsOf = -Infinity;
      alive = true;
      replayed = here.position;
      return { ...here, position: here.position };
    } catch (err) {
      alive = false;
      throw err;
    }
  }

  function advance(moment: number): void {
    currentAsOf = Math.max(currentAsOf, moment);
  }

  function say(err: unknown): void {
    if (usable() === saidUsable) return;
    saidUsable = usable();
    const lagSeconds = lagMs / 1000;
    if (saidUsable) log.info({ lagSeconds }, 'reads go to the replica');
    else
      log.warn({ lagSeconds, error: err }, 'reads go to the primary: the replica is away or too far behind');
  }
}

/** pg_lsn text in a form that sorts as a string: '16/B374D848' → '00000016/B374D848'. */
export function padPosition(position: string | null | undefined): string | undefined {
  return position
    ?.split('/')
    .map((half) => half.padStart(8, '0'))
    .join('/');
}

/** One run at a time: callers during a run get its result. */
function shared<T>(run: () => Promise<T>): () => Promise<T> {
  let running: Promise<T> | undefined;
  return () => {
    running ??= run().finally(() => {
      running = undefined;
    });
    return running;
  };
}
