import type { PoolClient } from 'pg';
import { AppError } from '../errors.ts';
import { wasSuspended, withTimeout } from '../lib/timeouts.ts';
import { isRefusal } from './errors.ts';

/** Which of these backends are at work. Rejects if Postgres does not respond. */
export type FindBusy = (pids: number[]) => Promise<Set<number>>;

interface Wait {
  pid: number;
  sinceMs: number;
  giveUp: (reason: Error) => void;
}

/** A busy machine may need so long for any response. */
const PROOF_MIN_MS = 1000;

/**
 * Tells a slow statement from one whose server is gone, which no socket says: packets are dropped, or a failover has
 * given the address to another machine. Another connection asks about each statement that has run for a quarter of
 * `poolWaitMs`; a dead one is given up before `poolWaitMs` is over.
 */
export function watchStatements(findBusy: FindBusy, poolWaitMs: number) {
  const waits = new Set<Wait>();
  let checking = false;
  const timer = setInterval(() => void check(), poolWaitMs / 4);
  timer.unref();

  async function check(): Promise<void> {
    const from = performance.now();
    const overdue = [...waits].filter(({ sinceMs }) => from - sinceMs > poolWaitMs / 4);
    if (overdue.length === 0 || checking) return;
    checking = true;
    const proofMs = Math.max(poolWaitMs / 2, PROOF_MIN_MS);
    const isDead = await withTimeout(findBusy(overdue.map(({ pid }) => pid)), proofMs).then(
      // A timeout proves nothing if this process was suspended.
      (busy) => (busy ? ({ pid }: Wait) => !busy.has(pid) : () => !wasSuspended(from, proofMs)),
      (error: unknown) => () => !(error instanceof AppError && isRefusal(error.cause)),
    );
    checking = false;
    for (const wait of overdue) {
      // The words of pg for a connection that is gone.
      if (waits.has(wait) && isDead(wait))
        wait.giveUp(new Error('Connection terminated: Postgres is silent'));
    }
  }

  return {
    /** The result, or an error if no backend works on it. */
    over<T>(client: PoolClient, result: Promise<T>): Promise<T> {
      return new Promise((resolve, reject) => {
        const { processID: pid } = client as PoolClient & { processID: number };
        const wait: Wait = { pid, sinceMs: performance.now(), giveUp: reject };
        waits.add(wait);
        result.then(resolve, reject).finally(() => waits.delete(wait));
      });
    },
    stop: () => clearInterval(timer),
  };
}
