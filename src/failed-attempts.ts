import { LRUCache } from 'lru-cache';
import { networkOf } from './client-address.ts';

const MINUTE_MS = 60_000;
const REMEMBERED_ADDRESSES = 50_000;
/** While keys wait in the queue, one batch of them is looked up in so many ms: ten queries a second at most. */
const BATCH_INTERVAL_MS = 100;
const BATCH_SIZE = 500;
const MOST_WAITING = 5_000;
const MOST_WAITING_OF_ONE = 1_000;

interface Client {
  failed: number;
  /** Look-ups under way outside of the queue. */
  running: number;
  /** When `failed` starts again at 0, on the clock of `performance.now()`. */
  endsAtMs: number;
}

/**
 * Bounds the work that guessing makes, without refusing a valid key. Counts failures by client address (IPv6 by
 * /64), in this process alone: the guess of a 178-bit secret is hopeless anyway. An address may have as many
 * look-ups under way as it has failures left. Further ones wait in a queue, where one query looks up hundreds of
 * keys: a valid key behind an address that guesses is admitted a tenth of a second later.
 */
export function createFailedAttempts(perMinute: number) {
  const clients = new LRUCache<string, Client>({ max: REMEMBERED_ADDRESSES });
  const nextTurn = createQueue();

  function clientOf(network: string): Client {
    const client = clients.get(network) ?? { failed: 0, running: 0, endsAtMs: 0 };
    if (client.endsAtMs <= performance.now()) client.failed = 0;
    clients.set(network, client);
    return client;
  }

  return {
    /** What `look` finds, or undefined when too many wait already. */
    async lookUp<T>(ip: string, look: () => Promise<T>): Promise<T | undefined> {
      const network = networkOf(ip);
      const client = clientOf(network);
      if (client.failed + client.running >= perMinute) {
        const turn = nextTurn(network);
        if (!turn) return undefined;
        await turn;
        return look();
      }
      client.running++;
      try {
        return await look();
      } finally {
        client.running--;
      }
    },

    /** Counts a failure. Seconds until the address may fail again if it has failed too often, else 0. */
    fail(ip: string): number {
      const client = clientOf(networkOf(ip));
      if (client.failed === 0) client.endsAtMs = performance.now() + MINUTE_MS;
      client.failed++;
      return client.failed > perMinute ? secondsLeft(client) : 0;
    },

    /** As `fail`, without a failure. */
    waitSeconds(ip: string): number {
      const client = clientOf(networkOf(ip));
      return client.failed >= perMinute ? secondsLeft(client) : 0;
    },
  };
}

function secondsLeft({ endsAtMs }: Client): number {
  return Math.max(1, Math.ceil((endsAtMs - performance.now()) / 1000));
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
