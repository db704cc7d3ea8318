import { Client } from 'pg';
import { pino } from 'pino';
import type { Test } from 'tap';
import { createMetrics } from '../../src/metrics.ts';
import { openPostgres, type Query } from '../../src/stores/postgres.ts';
import { createEmptyDatabase } from '../support/postgres.ts';
import { until } from '../support/until.ts';

/** Answers one row, with null for what does not exist. */
export const loadQuery = (id: string): Query => ({
  name: 'load',
  text: `with waited as materialized (select wait_if_first())
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
  await client.query(`
    create table thing (id text primary key, value text);
    create sequence loads;
    create table gate (closed boolean);
    create function wait_if_first() returns void language plpgsql as $$
    begin
      if nextval('loads') = 1 then
        while exists (select from gate) loop perform pg_sleep(0.01); end loop;
      end if;
    end $$`);

  return {
    url,
    client,
    /** How often Postgres was asked since the last hold(). */
    loads: async () => Number((await client.query(`select nextval('loads') - 1 as loads`)).rows[0].loads),

    load: (id: string) => async (): Promise<string | undefined> => {
      const [row] = await db.query<{ value: string | null }>(loadQuery(id));
      return row?.value ?? undefined;
    },

    /** From now on the next load waits, until it is let go. */
    async hold() {
      await client.query(`insert into gate values (true); select setval('loads', 1, false)`);
    },
    isHeld: () =>
      until('the load waits with an old snapshot', async () => {
        const { rowCount } = await client.query(
          `select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'`,
        );
        return rowCount === 1;
      }),
    letGo: () => client.query('delete from gate'),
  };
}
