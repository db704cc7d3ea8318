// Goes with the example: src/features/orders
import type { Load, Request } from './drive.ts';
import { fillOrders } from './fill.ts';
import { compareServers, type HttpSide } from './http-sides.ts';
import type { Settings } from './read.ts';
import type { Report } from './report.ts';
import type { Server } from './servers.ts';
import { PEER_COMMANDS, startAssembled, startService, startWithCopies } from './sides.ts';
import { TENANTS, headersOf, type World } from './world.ts';

const ROWS = 1_000_000;

/** What a cached read costs with more of everything: keys, routes, processes; and a read and a list with more rows. */
export async function benchGrowth(report: Report, world: World, settings: Settings): Promise<void> {
  const { connections, ...pace } = settings;
  const hot = await world.reads(TENANTS);
  const loadOf = (requests: Request[]): Load => ({ requests, connections });
  const measure = async (title: string, start: () => Promise<HttpSide[]>, ours?: number) => {
    const sides = await start();
    try {
      await compareServers(report, title, sides, { ...pace, redis: world.redis }, ours);
    } finally {
      const servers = new Set(sides.flatMap((side) => side.servers));
      for (const server of servers) await server.stop();
    }
  };
  const sideOf = (name: string, servers: Server[], requests = hot): HttpSide => ({
    name,
    servers,
    load: loadOf(requests),
  });

  await measure('Routes', async () => [
    sideOf('10 routes more', [await startWithCopies(world, 10)]),
    sideOf('500 routes more', [await startWithCopies(world, 500)]),
  ]);
  await measure('Processes', async () => [
    sideOf('1 process', [await startService(world, SHARED)]),
    sideOf('3 processes', await startThree(world)),
  ]);
  await measure(
    'Keys',
    async () => {
      const many = await world.reads(10_000);
      // Each number of keys has a process of its own: what one has learned is no help to the others.
      return [
        sideOf('100 keys', [await startService(world)]),
        sideOf('1 key', [await startService(world)], hot.slice(0, 1)),
        sideOf('10000 keys', [await startService(world)], many),
        {
          ...sideOf('10000 keys, Fastify by hand', [await startAssembled(world, 'redis')], many),
          sends: PEER_COMMANDS,
        },
      ];
    },
    2,
  );
  await benchRows(report, world, measure, sideOf);
}

const SHARED = { EXPECTED_REPLICAS: '3' };

function startThree(world: World): Promise<Server[]> {
  return Promise.all([1, 2, 3].map(() => startService(world, SHARED)));
}

type Measure = (title: string, start: () => Promise<HttpSide[]>) => Promise<void>;

/** Two databases cannot be compared in turns in one: this is two runs, each against the cached read beside it. */
async function benchRows(
  report: Report,
  world: World,
  measure: Measure,
  sideOf: (name: string, servers: Server[], requests?: Request[]) => HttpSide,
): Promise<void> {
  const lists = world.tenants.map(({ token }): Request => ({
    method: 'GET',
    path: '/v1/orders?limit=20',
    headers: headersOf(token),
  }));
  const sides = async () => {
    const asking = await startService(world, { CACHE_ENABLED: 'false' });
    return [
      sideOf('cached read', [await startService(world)]),
      sideOf('uncached read', [asking]),
      sideOf('list of 20', [asking], lists),
    ];
  };
  await fillOrders(world.db, 20);
  await measure(`Rows: ${20 * TENANTS}`, sides);
  report.say(`Adding orders up to ${ROWS}…`);
  await fillOrders(world.db, ROWS / TENANTS);
  await measure(`Rows: ${ROWS}`, sides);
}
