import type { PoolClient } from 'pg';
import { AppError } from '../errors.ts';
import { inTime } from '../lib/in-time.ts';
import { sleptSince } from '../lib/retry-delay.ts';
import { isRefusal } from './errors.ts';

/** Which of these backends are at work. Rejects when Postgres does not say. */
export type FindBusy = (pids: number[]) => Promise<Set<number>>;

interface Wait {
  pid: number;
  sinceMs: number;
  giveUp: (reason: Error) => void;
}

/** A busy machine may take so long to answer anything. */
const PROOF_MIN_MS = 1000;

/**
 * Tells a statement that takes long from one that waits for a server that is not there, which no socket says:
 * packets are dropped, or a failover has given the address to another machine. Who has waited for a quarter of
 * `patienceMs` is asked for on another connection, and is given up before `patienceMs` is over.
 */
export function startWatch(findBusy: FindBusy, patienceMs: number) {
  const waits = new Set<Wait>();
  let looking = false;
  const timer = setInterval(() => void look(), patienceMs / 4);
  timer.unref();

  async function look(): Promise<void> {
    const from = performance.now();
    const overdue = [...waits].filter(({ sinceMs }) => from - sinceMs > patienceMs / 4);
    if (overdue.length === 0 || looking) return;
    looking = true;
    const proofMs = Math.max(patienceMs / 2, PROOF_MIN_MS);
    const isDead = await inTime(findBusy(overdue.map(({ pid }) => pid)), proofMs).then(
      // No answer proves nothing when this process was asleep.
      (busy) => (busy ? ({ pid }: Wait) => !busy.has(pid) : () => !sleptSince(from, proofMs)),
      (error: unknown) => () => !(error instanceof AppError && isRefusal(error.cause)),
    );
    looking = false;
    for (const wait of overdue) {
      // The words of pg for a connection that is gone.
      if (waits.has(wait) && isDead(wait))
        wait.giveUp(new Error('Connection terminated: Postgres is silent'));
    }
  }

  return {
    /** The answer, or an error when nobody works on it. */
    over<T>(client: PoolClient, answer: Promise<T>): Promise<T> {
      return new Promise((resolve, reject) => {
        const { processID: pid } = client as PoolClient & { processID: number };
        const wait: Wait = { pid, sinceMs: performance.now(), giveUp: reject };
        waits.add(wait);
        answer.then(resolve, reject).finally(() => waits.delete(wait));
      });
    },
    stop: () => clearInterval(timer),
  };
}
