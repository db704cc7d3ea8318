// Goes with the example: src/features/orders
import { rm } from 'node:fs/promises';
import { openEmbeddedPostgres } from '../src/commands/embedded-postgres.ts';
import { runApiKey } from '../src/commands/api-key.ts';
import { migrateUp } from '../src/commands/migrate.ts';
import { startServer } from './servers.ts';

export interface World {
  /** Environment of the service, with limits out of the way. */
  env: NodeJS.ProcessEnv;
  /** One request a key: 100 keys, each with an order of its own. */
  requests: { method: 'GET'; path: string; headers: Record<string, string> }[];
  /** What each of them answers, as JSON text. */
  body: string;
  stop(): Promise<void>;
}

const KEYS = 100;
const DATA = new URL('../.hardpoint/bench-pg', import.meta.url).pathname;

/** A real Postgres with keys and orders; DATABASE_URL and REDIS_URL are used when they are set. */
export async function makeWorld(say: (line: string) => void): Promise<World> {
  await rm(DATA, { recursive: true, force: true });
  const postgres = await openEmbeddedPostgres({ dataDir: DATA, say });
  const env = {
    DATABASE_URL: postgres.url,
    API_HOST: '127.0.0.1',
    API_PORT: '0',
    METRICS_PORT: '0',
    DRAIN_DELAY_SECONDS: '0',
    RATE_LIMIT_PER_MINUTE: '10000000',
    CACHE_TTL_SECONDS: '600',
    // A machine that is busy with the load is no reason to refuse it.
    MAX_EVENT_LOOP_DELAY_MS: '0',
    NODE_OPTIONS: '',
  };
  await migrateUp({ databaseUrl: postgres.url, say });
  const service = await startServer(new URL('../dist/main.js', import.meta.url).pathname, env);
  const requests: World['requests'] = [];
  let body = '';
  for (let index = 0; index < KEYS; index++) {
    const created = await runApiKey(['create', '--tenant', `t${index}`, '--scopes', '*', '--json'], env);
    const { token } = JSON.parse(created) as { token: string };
    const headers = { authorization: `Bearer ${token}`, accept: 'application/json' };
    const items = [1, 2, 3].map((item) => ({ sku: `SKU-${item}`, quantity: item, unitPriceMinor: 1250 }));
    const response = await fetch(`${service.url}/v1/orders`, {
      method: 'POST',
      headers: { ...headers, 'content-type': 'application/json' },
      body: JSON.stringify({ reference: `bench-${index}`, currency: 'EUR', items }),
    });
    if (response.status !== 201)
      throw new Error(`an order was answered ${response.status}: ${await response.text()}`);
    body = await response.text();
    requests.push({ method: 'GET', path: response.headers.get('location') ?? '', headers });
  }
  await service.stop();
  say(`${KEYS} keys, ${KEYS} orders, ${body.length} bytes an answer`);
  return {
    env,
    requests,
    body,
    async stop() {
      await postgres.stop();
      await rm(DATA, { recursive: true, force: true });
    },
  };
}
