// Goes with the example: src/features/orders
import { orderSql } from '../../src/features/orders/repository.ts';
import type { ListQuery, NewOrder } from '../../src/features/orders/schema.ts';
import { compareDrivers } from './drivers.ts';
import { drive, type Request } from './drive.ts';
import { fillOrders } from './fill.ts';
import { compareServers } from './http-sides.ts';
import { findPgbench, inline, runPgbench } from './pgbench.ts';
import type { Settings } from './read.ts';
import type { Report } from './report.ts';
import { ratios, takeTurns } from './rounds.ts';
import type { Server } from './servers.ts';
import { startService, statementOf } from './sides.ts';
import { POOL, TENANTS, headersOf, newOrder, type World } from './world.ts';

const PAGE = 20;

interface Operation {
  name: string;
  server: Server;
  requests: Request[];
  /** What it asks of Postgres, for pgbench; none when nothing. */
  scripts?: string[];
}

/** What the service does with an order, beside each other; and beside the same statements in pgbench. */
export async function benchOperations(report: Report, world: World, settings: Settings): Promise<void> {
  await fillOrders(world.db, PAGE);
  await compareDrivers(report, world, settings.rounds);
  const caching = await startService(world);
  const asking = await startService(world, { CACHE_ENABLED: 'false' });
  try {
    const operations = await listOperations(world, caching, asking);
    const { connections, ...pace } = settings;
    const sides = operations.map(({ name, server, requests }) => ({
      name,
      servers: [server],
      load: { connections, requests },
    }));
    await compareServers(report, 'Operations of the service', sides, { ...pace, redis: world.redis });
    await comparePgbench(report, world, operations, settings);
  } finally {
    await caching.stop();
    await asking.stop();
  }
}

async function listOperations(world: World, caching: Server, asking: Server): Promise<Operation[]> {
  const { tenants } = world;
  const reads = await world.reads(TENANTS);
  let created = 0;
  const inserts = tenants.map(({ token }): Request => ({
    method: 'POST',
    path: '/v1/orders',
    headers: { ...headersOf(token), 'content-type': 'application/json' },
    body: () => newOrder(`made-${process.pid}-${created++}`),
  }));
  const lists = tenants.map(({ token }): Request => ({
    method: 'GET',
    path: `/v1/orders?limit=${PAGE}`,
    headers: headersOf(token),
  }));
  const scriptsOf = async (statement: (tenant: string, id: string) => ReturnType<typeof statementOf>) =>
    Promise.all(
      tenants.map(async ({ tenant, path }) => inline(await statement(tenant, path.split('/').at(-1) ?? ''))),
    );
  return [
    { name: 'cached read', server: caching, requests: reads },
    {
      name: 'uncached read',
      server: asking,
      requests: reads,
      scripts: await scriptsOf((tenant, id) => statementOf((tx) => orderSql.find(tx, tenant, id))),
    },
    {
      name: `list of ${PAGE}`,
      server: asking,
      requests: lists,
      scripts: await scriptsOf((tenant) =>
        statementOf((tx) => orderSql.list(tx, tenant, FIRST_PAGE, undefined)),
      ),
    },
    {
      name: 'insert',
      server: asking,
      requests: inserts,
      scripts: (
        await scriptsOf((tenant) => statementOf((tx) => orderSql.insert(tx, tenant, ID, ORDER, 7500)))
      ).map(
        (text) =>
          `begin;\n${text.replace(`'${ID}'`, 'uuidv7()').replace(`'${REFERENCE}'`, 'uuidv7()::text')}commit;\n`,
      ),
    },
  ];
}

const FIRST_PAGE = { limit: PAGE } as ListQuery;
const ID = '00000000-0000-7000-8000-000000000000';
const REFERENCE = 'to-be-replaced';
const ORDER = { ...(JSON.parse(newOrder(REFERENCE)) as NewOrder) };

/**
 * Requests a second beside the transactions a second that pgbench gets out of the same Postgres with the same
 * statements: how much of what the database can do arrives at the clients.
 */
async function comparePgbench(report: Report, { env }: World, operations: Operation[], settings: Settings) {
  const program = await findPgbench();
  if (program === undefined) {
    report.say(
      '\nNo pgbench: left out. It comes with Postgres; on Debian in the package postgresql-contrib.',
    );
    return;
  }
  const { rounds, seconds, connections } = settings;
  for (const { name, server, requests, scripts } of operations) {
    if (!scripts) continue;
    const sides = [
      {
        name: 'pgbench',
        run: async () =>
          1e6 / (await runPgbench(program, env.DATABASE_URL, scripts, { connections: POOL, seconds })),
      },
      {
        name: 'service',
        run: async () =>
          1e6 / (await drive([server], { requests, connections, duration: seconds })).perSecond,
      },
    ];
    const [bench = [], service = []] = await takeTurns(sides, rounds);
    report.say();
    report.figure(
      `${name}: requests a second`,
      service.map((micros) => 1e6 / micros),
    );
    report.figure(
      `${name}: pgbench, transactions a second`,
      bench.map((micros) => 1e6 / micros),
    );
    report.figure(`${name}: share of pgbench`, ratios(service, bench), 2);
  }
}
