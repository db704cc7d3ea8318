// Goes with the example: src/features/orders
import { Agent, request } from 'node:https';
import { setTimeout as delay } from 'node:timers/promises';

export interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: string;
}

export interface Load {
  /** Ends it; resolves to what was sent, and what was not answered as it should. */
  stop(): Promise<{ sent: number; failures: string[]; references: string[]; longestFailureMs: number }>;
}

const agent = new Agent({ keepAlive: true, maxSockets: 64, rejectUnauthorized: false });

/** One request over TLS; the certificate of the test is self-signed. */
export function send(
  url: string,
  options: { method?: string; headers?: Record<string, string>; body?: unknown; timeoutMs?: number } = {},
): Promise<Answer> {
  const { method = 'GET', headers = {}, body, timeoutMs = 15_000 } = options;
  const text = body === undefined ? undefined : JSON.stringify(body);
  return new Promise((resolve, reject) => {
    const sent = request(
      url,
      {
        agent,
        method,
        headers: {
          ...headers,
          ...(text && { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }),
        },
        timeout: timeoutMs,
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body: Buffer.concat(chunks).toString(),
          }),
        );
      },
    );
    sent.on('timeout', () => sent.destroy(new Error(`no answer in ${timeoutMs} ms`)));
    sent.on('error', reject);
    sent.end(text);
  });
}

/** So many requests a second at a constant rate, one in ten a write that is sent once; runs until it is stopped. */
export function startLoad(api: string, key: string, perSecond: number): Load {
  const failures: string[] = [];
  const references: string[] = [];
  const pending = new Set<Promise<void>>();
  const headers = { authorization: `Bearer ${key}` };
  let sent = 0;
  let running = true;
  let firstFailure = Infinity;
  let lastFailure = -Infinity;

  async function one(index: number): Promise<void> {
    const startedAt = performance.now();
    try {
      const answer =
        index % 10 === 0 ? await write(index) : await send(`${api}/v1/orders?limit=5`, { headers });
      if (answer.status >= 400) throw new Error(`${answer.status} ${answer.body.slice(0, 120)}`);
    } catch (error) {
      firstFailure = Math.min(firstFailure, startedAt);
      lastFailure = Math.max(lastFailure, performance.now());
      const { message, code = '' } = error as NodeJS.ErrnoException;
      failures.push(`${index % 10 === 0 ? 'POST' : 'GET'} ${code} ${message}`);
    }
  }

  function write(index: number): Promise<Answer> {
    const reference = `load-${process.pid}-${performance.timeOrigin}-${index}`;
    references.push(reference);
    return send(`${api}/v1/orders`, {
      method: 'POST',
      headers: { ...headers, 'idempotency-key': reference },
      body: { reference, currency: 'EUR', items: [{ sku: 'LOAD-1', quantity: 1, unitPriceMinor: 100 }] },
    });
  }

  const loop = (async () => {
    const startedAt = performance.now();
    while (running) {
      const due = Math.floor(((performance.now() - startedAt) * perSecond) / 1000);
      for (; sent < due; sent++) {
        const work = one(sent).finally(() => pending.delete(work));
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
      return { sent, failures, references, longestFailureMs: Math.max(0, lastFailure - firstFailure) };
    },
  };
}
