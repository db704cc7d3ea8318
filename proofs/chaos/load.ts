// Goes with the example: src/features/orders
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Environment } from './environment.ts';

export const KINDS = ['cached read', 'uncached read', 'list', 'create'] as const;
export type Kind = (typeof KINDS)[number];

/** One response; status 0: none came. */
export interface Sample {
  kind: Kind;
  status: number;
  ms: number;
}

export interface Load {
  /** What came since this was last called. */
  take(): Sample[];
  /** Stops sending; resolves when every create was answered with 201 and once more. */
  stop(): Promise<void>;
  /** Creates that were answered with 201: reference and id. */
  created: Map<string, string>;
  /** References of all creates that were ever sent. */
  attempted: Set<string>;
  /** Creates whose repetition was answered with another id. */
  doubled: string[];
  /** One request of each kind to one process. @throws Error with the kind and status that was not a success */
  tryAll(serviceIndex: number): Promise<void>;
}

/** Requests a second of each kind; a create is sent twice with the same Idempotency-Key. */
const PER_SECOND: Record<Kind, number> = { 'cached read': 30, 'uncached read': 10, list: 10, create: 5 };
const TICK_MS = 20;
const GIVE_UP_MS = 45_000;
const HOT_ORDERS = 10;
const COLD_ORDERS = 4_000;

/** Sends in an open loop: a slow service does not slow the load down. */
export async function startLoad({ services, postgres, tokens }: Environment): Promise<Load> {
  const hot: string[] = [];
  const created = new Map<string, string>();
  const attempted = new Set<string>();
  const doubled: string[] = [];
  const creating = new Set<Promise<void>>();
  let samples: Sample[] = [];
  let sent = 0;
  let stopped = false;

  for (let index = 0; index < HOT_ORDERS; index += 1) hot.push((await create(index)).id as string);
  const cold = await seedOrders();
  // Every process knows every key and every hot order from here on.
  for (const service of services.keys())
    for (const token of tokens.keys())
      for (const id of hot) await send('cached read', service, `/${id}`, { token });

  const due: Record<Kind, number> = { 'cached read': 0, 'uncached read': 0, list: 0, create: 0 };
  let lastMs = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    for (const kind of KINDS) {
      due[kind] += ((now - lastMs) / 1000) * PER_SECOND[kind];
      for (; due[kind] >= 1; due[kind] -= 1) void offer(kind);
    }
    lastMs = now;
  }, TICK_MS);

  return {
    created,
    attempted,
    doubled,
    take() {
      const taken = samples;
      samples = [];
      return taken;
    },
    async stop() {
      clearInterval(timer);
      stopped = true;
      await Promise.all(creating);
    },
    async tryAll(service) {
      const token = service % tokens.length;
      const results = [
        await send('cached read', service, `/${hot[0]}`, { token }),
        await send('uncached read', service, `/${nextCold()}`, { token }),
        await send('list', service, '?limit=5', { token }),
        await create(service),
      ];
      const failed = results.findIndex(({ status }) => status < 200 || status > 299);
      if (failed >= 0) throw new Error(`${KINDS[failed]}: ${results[failed]?.status}`);
    },
  };

  function nextCold(): string {
    return cold[sent % cold.length] as string;
  }

  async function offer(kind: Kind): Promise<void> {
    sent += 1;
    const place = { service: sent % services.length, token: Math.floor(sent / 3) % tokens.length };
    if (kind === 'create') {
      const work = createUntilDone(sent);
      creating.add(work);
      await work.finally(() => creating.delete(work));
      return;
    }
    const path = {
      'cached read': `/${hot[sent % hot.length]}`,
      'uncached read': `/${nextCold()}`,
      list: '?limit=20',
    };
    samples.push(await send(kind, place.service, path[kind], place));
  }

  /** As a client does: the same request with the same key until it is answered, and here once more after that. */
  async function createUntilDone(number: number): Promise<void> {
    const order = { key: randomUUID(), reference: `chaos-${randomUUID()}` };
    for (let attempt = 0; ; attempt += 1) {
      const { id, ...sample } = await create(number + attempt, order);
      samples.push(sample);
      if (sample.status !== 201) {
        if (stopped && attempt > 60) return;
        await delay(1_000);
        continue;
      }
      const first = created.get(order.reference);
      if (first !== undefined) {
        if (first !== id) doubled.push(order.reference);
        return;
      }
      created.set(order.reference, id as string);
    }
  }

  async function create(service: number, order = { key: randomUUID(), reference: `chaos-${randomUUID()}` }) {
    attempted.add(order.reference);
    const body = JSON.stringify({
      reference: order.reference,
      currency: 'EUR',
      items: [{ sku: 'BOOK-1', quantity: 1, unitPriceMinor: 1250 }],
    });
    return send('create', service % services.length, '', { body, key: order.key });
  }

  async function send(
    kind: Kind,
    service: number,
    path: string,
    { token = 0, body, key }: { token?: number; body?: string; key?: string },
  ): Promise<Sample & { id?: string }> {
    const headers: Record<string, string> = { authorization: `Bearer ${tokens[token]}` };
    if (body !== undefined) headers['content-type'] = 'application/json';
    if (key !== undefined) headers['idempotency-key'] = key;
    const fromMs = performance.now();
    try {
      const response = await fetch(`${services[service]?.url}/v1/orders${path}`, {
        method: body === undefined ? 'GET' : 'POST',
        headers,
        signal: AbortSignal.timeout(GIVE_UP_MS),
        ...(body !== undefined && { body }),
      });
      const { id } = (await response.json()) as { id?: string };
      const sample = { kind, status: response.status, ms: performance.now() - fromMs };
      return id === undefined ? sample : { ...sample, id };
    } catch {
      return { kind, status: 0, ms: performance.now() - fromMs };
    }
  }

  /** Rows that no request has read yet. */
  async function seedOrders(): Promise<string[]> {
    const { rows } = await postgres.admin.query<{ id: string }>(
      `insert into orders (id, tenant, reference, status, currency, total_minor, items)
       select gen_random_uuid(), 'chaos', 'cold-' || number, 'pending', 'EUR', 1250,
         '[{"sku":"BOOK-1","quantity":1,"unitPriceMinor":1250}]'
       from generate_series(1, $1::int) as number
       returning id`,
      [COLD_ORDERS],
    );
    return rows.map((row) => row.id);
  }
}
