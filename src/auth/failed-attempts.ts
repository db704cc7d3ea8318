import type { FastifyInstance, FastifyRequest } from 'fastify';
import { networkOf } from '../http/client-address.ts';

/** Counts a failure of an address, or only tells what is left with `{ increment: false }`. */
type CountFailures = ReturnType<FastifyInstance['createRateLimit']>;

/** While keys wait in the queue, one batch of them is looked up in so many ms: ten queries a second at most. */
const BATCH_INTERVAL_MS = 100;
const BATCH_SIZE = 500;
const MOST_WAITING = 5_000;
const MOST_WAITING_OF_ONE = 1_000;

/**
 * Bounds the work that guessing makes, without refusing a valid key. `count` has the failures of each client address,
 * in this process alone: the guess of a 178-bit secret is hopeless anyway. An address may have as many look-ups under
 * way as it has failures left. Further ones wait in a queue, where one query looks up hundreds of keys: a valid key
 * behind an address that guesses is admitted a tenth of a second later.
 */
export function createFailedAttempts(count: CountFailures) {
  const runningOf = new Map<string, number>();
  const nextTurn = createQueue();
  let lastCount: Promise<unknown> = Promise.resolve();

  return {
    /** What `look` finds, or undefined when too many wait already. */
    async lookUp<T>(request: FastifyRequest, look: () => Promise<T>): Promise<T | undefined> {
      const network = networkOf(request.ip);
      const others = runningOf.get(network) ?? 0;
      runningOf.set(network, others + 1);
      try {
        const known = await count(request, { increment: false });
        if (known.isAllowed || others < known.remaining) return await look();
      } finally {
        const left = (runningOf.get(network) ?? 1) - 1;
        if (left > 0) runningOf.set(network, left);
        else runningOf.delete(network);
      }
      const turn = nextTurn(network);
      if (!turn) return undefined;
      await turn;
      return look();
    },

    /** Counts a failure. Seconds until the address may fail again if it has failed too often, else 0. */
    async fail(request: FastifyRequest): Promise<number> {
      // One after the other: of two at once, the store would tell both the sum.
      const counted = lastCount.then(() => count(request));
      lastCount = counted.catch(() => undefined);
      const known = await counted;
      return !known.isAllowed && known.isExceeded ? Math.max(1, known.ttlInSeconds) : 0;
    },

    /** As `fail`, without a failure. */
    async waitSeconds(request: FastifyRequest): Promise<number> {
      const known = await count(request, { increment: false });
      return !known.isAllowed && known.remaining === 0 ? Math.max(1, known.ttlInSeconds) : 0;
    },
  };
}

/** Gives turns in batches, to each address one after the other. Undefined when the queue is full. */
function createQueue() {
  const waiting = new Map<string, (() => void)[]>();
  let size = 0;
  let timer: NodeJS.Timeout | undefined;
  let lastBatchMs = -Infinity;

  function schedule(): void {
    if (size > 0) timer ??= setTimeout(serve, lastBatchMs + BATCH_INTERVAL_MS - performance.now());
  }

  function serve(): void {
    timer = undefined;
    lastBatchMs = performance.now();
    let left = BATCH_SIZE;
    // What is put back comes last: the loop goes round until nobody waits or the batch is full.
    for (const [network, turns] of waiting) {
      waiting.delete(network);
      turns.shift()?.();
      size--;
      if (turns.length > 0) waiting.set(network, turns);
      if (--left === 0) break;
    }
    schedule();
  }

  return function nextTurn(network: string): Promise<void> | undefined {
    const turns = waiting.get(network) ?? [];
    if (size >= MOST_WAITING || turns.length >= MOST_WAITING_OF_ONE) return undefined;
    size++;
    return new Promise((resolve) => {
      waiting.set(network, turns);
      turns.push(resolve);
      schedule();
    });
  };
}
