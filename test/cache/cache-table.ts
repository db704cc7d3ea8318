import { Client } from 'pg';
import { pino } from 'pino';
import type { Test } from 'tap';
import { createMetrics } from '../../src/observability/metrics.ts';
import { openPostgres, type Query } from '../../src/postgres/postgres.ts';
import { createGate } from '../support/gate.ts';
import { createEmptyDatabase } from '../support/postgres.ts';

/** Answers one row, with null for what does not exist. */
export const loadQuery = (id: string): Query => ({
  name: 'load',
  text: `with waited as materialized (select pass_gate())
    select value from waited left join thing on id = $1`,
  values: [id],
});

/** Rows to cache, whose first load of each round is held in Postgres with the snapshot that it has by then. */
export async function openTable(t: Test) {
  const url = await createEmptyDatabase(t);
  const client = new Client({ connectionString: url });
  await client.connect();
  t.teardown(() => client.end());
  const db = openPostgres(
    { url, applicationName: 'test', poolMax: 5, poolWaitMs: 3000, queryTimeoutMs: 20_000, pgbouncer: false },
    { log: pino({ level: 'silent' }), metrics: createMetrics('test'), target: 'primary' },
  );
  t.teardown(() => db.close());
  await client.query('create table thing (id text primary key, value text)');
  const gate = await createGate(client);

  return {
    url,
    client,
    load: (id: string) => async (): Promise<string | undefined> => {
      const [row] = await db.query<{ value: string | null }>(loadQuery(id));
      return row?.value ?? undefined;
    },
    ...gate,
  };
}
