import type { Client } from 'pg';
import { until } from './until.ts';

/**
 * Makes `pass_gate()` in a database, for tests that read while somebody writes: it counts who comes by, and the
 * first one after hold() waits there, with the snapshot that it has by then.
 */
export async function createGate(client: Client) {
  await client.query(`
    create sequence loads;
    create table gate (closed boolean);
    create function pass_gate() returns boolean language plpgsql as $$
    begin
      if nextval('loads') = 1 then
        while exists (select from gate) loop perform pg_sleep(0.01); end loop;
      end if;
      return true;
    end $$`);

  return {
    /** From now on the next load waits, until it is let go. */
    hold: () => client.query(`insert into gate values (true); select setval('loads', 1, false)`),
    isHeld: () =>
      until('a load waits with its snapshot', async () => {
        const { rowCount } = await client.query(
          `select from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'`,
        );
        return rowCount === 1;
      }),
    letGo: () => client.query('delete from gate'),
    /** How often Postgres was asked since the last hold(). */
    loads: async () => Number((await client.query(`select nextval('loads') - 1 as loads`)).rows[0].loads),
  };
}
