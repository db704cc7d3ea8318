// Goes with the example: src/features/orders
import { Pool } from 'pg';
import { pino } from 'pino';
import { orderSql } from '../../src/features/orders/repository.ts';
import { createMetrics } from '../../src/observability/metrics.ts';
import type { Report } from './report.ts';
import { atOnce, ownMicros, ratios, takeTurns } from './rounds.ts';
import { statementOf } from './sides.ts';
import { POOL, type World } from './world.ts';

/** As it is built: tsx adds a call for every closure. */
const BUILT = new URL('../../dist/postgres/postgres.js', import.meta.url).href;
const QUERIES = 2000;
/** Of the waits, in ms, as the service has them. */
const BOUNDS = {
  connectionTimeoutMillis: 5_000,
  statement_timeout: 10_000,
  lock_timeout: 5_000,
  idle_in_transaction_session_timeout: 10_000,
  query_timeout: 11_000,
};

/**
 * A read by key through the service's way to Postgres beside pg singleProcess: one process, one statement, no HTTP. Between
 * them pg with the same time limits, which shows what of the difference these are. Resolves to the shares that the
 * service has of pg alone, a round each.
 */
export async function compareDrivers(
  report: Report,
  { env, tenants }: World,
  rounds: number,
): Promise<number[]> {
  const deps = { log: pino({ level: 'silent' }), metrics: createMetrics('bench') };
  const url = env.DATABASE_URL;
  const { openPostgres } = (await import(BUILT)) as typeof import('../../src/postgres/postgres.ts');
  const alone = new Pool({ connectionString: url, max: POOL });
  const bounded = new Pool({ connectionString: url, max: POOL, ...BOUNDS });
  const ours = openPostgres(
    {
      url,
      poolMax: POOL,
      poolWaitMs: BOUNDS.connectionTimeoutMillis,
      queryTimeoutMs: BOUNDS.statement_timeout,
      pgbouncer: false,
      applicationName: 'hardpoint-bench',
    },
    { ...deps, target: 'primary' },
  );
  const statements = await Promise.all(
    tenants.map(({ tenant, path }) =>
      statementOf((tx) => orderSql.find(tx, tenant, path.split('/').at(-1) ?? '')),
    ),
  );
  const statementAt = (index: number) => statements[index % statements.length] ?? { name: '', text: '' };
  let rows = 0;
  const sideOf = (name: string, count: (index: number) => Promise<number>) => ({
    name,
    run: () =>
      ownMicros(QUERIES, () =>
        atOnce(QUERIES, async (index) => {
          const found = await count(index);
          rows += found;
        }),
      ),
  });
  const sides = [
    sideOf('pg alone', async (index) => (await alone.query(statementAt(index))).rows.length),
    sideOf('pg alone, with time limits', async (index) => {
      const client = await bounded.connect();
      try {
        return (await client.query(statementAt(index))).rows.length;
      } finally {
        client.release();
      }
    }),
    sideOf('service', async (index) => (await ours.query(statementAt(index))).length),
  ];
  try {
    const micros = await takeTurns(sides, rounds);
    if (rows !== sides.length * (rounds + 1) * QUERIES) throw new Error(`${rows} rows were read`);
    const measured = sides.map(({ name }, index) => ({ name, micros: micros[index] ?? [] }));
    report.compare('Database read by key, without HTTP', measured);
    return ratios(micros.at(-1), micros[0]);
  } finally {
    await alone.end();
    await bounded.end();
    await ours.close();
  }
}
