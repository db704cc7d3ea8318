// Goes with the example: src/features/orders
import { setTimeout as delay } from 'node:timers/promises';
import { send, type Answer } from './request.ts';

export interface Failure {
  /** One line. */
  text: string;
  /** When it was sent, by the clock of `performance.now()`. */
  sentAtMs: number;
  /** What came in the place of the response that it should have had, unless the connection failed. */
  answer?: Answer;
}

export interface LoadResult {
  sent: number;
  /** What was not answered as it should. */
  failures: Failure[];
  /** Of the orders that were sent, each once or, after a failure, again with the same Idempotency-Key. */
  references: string[];
}

export interface Load {
  stop(): Promise<LoadResult>;
}

export interface LoadOptions {
  api: string;
  key: string;
  perSecond: number;
  /** Which answers are as they should be; every one below 400 unless told. */
  accepts?: (answer: Answer) => boolean;
}

const WRITE_EVERY = 10;
const REPEAT_EVERY = 3;
const GIVES_UP_MS = 20_000;
const PAUSE_MS = 250;
let loads = 0;

/**
 * Requests at a constant rate until it is stopped: reads, and one in ten a write, which is repeated with its
 * Idempotency-Key until it is done, as a client would. Each failure counts, repeated or not. One in three writes is
 * sent once more when it is done: the answer has to name the same order.
 */
export function startLoad({ api, key, perSecond, accepts = isDone }: LoadOptions): Load {
  const name = `load-${process.pid}-${(loads += 1)}`;
  const failures: Failure[] = [];
  const references: string[] = [];
  const pending = new Set<Promise<void>>();
  const authorization = `Bearer ${key}`;
  let sent = 0;
  let running = true;

  /** Undefined when it failed. */
  async function attempt(what: string, work: () => Promise<Answer>): Promise<Answer | undefined> {
    const sentAtMs = performance.now();
    try {
      const answer = await work();
      if (accepts(answer)) return answer;
      failures.push({ text: `${what} ${answer.status} ${answer.body.slice(0, 160)}`, sentAtMs, answer });
    } catch (error) {
      const { message, code = '' } = error as NodeJS.ErrnoException;
      failures.push({ text: `${what} ${code} ${message}`, sentAtMs });
    }
    return undefined;
  }

  async function write(index: number): Promise<void> {
    const reference = `${name}-${index}`;
    references.push(reference);
    const post = () =>
      send(`${api}/v1/orders`, {
        method: 'POST',
        headers: { authorization, 'idempotency-key': reference },
        body: { reference, currency: 'EUR', items: [{ sku: 'LOAD-1', quantity: 1, unitPriceMinor: 100 }] },
      });
    let made = await attempt('POST', post);
    const endMs = performance.now() + GIVES_UP_MS;
    while (!(made && isDone(made)) && performance.now() < endMs) {
      await delay(PAUSE_MS);
      made = await post().catch(() => undefined);
    }
    const fail = (text: string) =>
      failures.push({ text: `POST ${reference} ${text}`, sentAtMs: performance.now() });
    if (!made || !isDone(made)) fail('was never done');
    else if (index % (WRITE_EVERY * REPEAT_EVERY) === 0) {
      const again = await attempt('POST again', post);
      if (again && isDone(again) && idOf(again) !== idOf(made)) fail('was made twice');
    }
  }

  const read = async () => {
    await attempt('GET', () => send(`${api}/v1/orders?limit=5`, { headers: { authorization } }));
  };

  const loop = (async () => {
    const startedMs = performance.now();
    while (running) {
      const due = Math.floor(((performance.now() - startedMs) * perSecond) / 1000);
      for (; sent < due; sent++) {
        const work = (sent % WRITE_EVERY === 0 ? write(sent) : read()).finally(() => pending.delete(work));
        pending.add(work);
      }
      await delay(5);
    }
  })();

  return {
    async stop() {
      running = false;
      await loop;
      await Promise.all(pending);
      return { sent, failures, references };
    },
  };
}

function isDone({ status }: Answer): boolean {
  return status < 400;
}

function idOf({ body }: Answer): string {
  return (JSON.parse(body) as { id: string }).id;
}
