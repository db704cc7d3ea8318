// Goes with the example: src/features/orders
import type { HttpSide } from './http-sides.ts';
import { compareServers } from './http-sides.ts';
import type { Report } from './report.ts';
import {
  PEER_COMMANDS,
  startAssembled,
  startBare,
  startExpress,
  startNodeHttp,
  startService,
} from './sides.ts';
import { TENANTS, type World } from './world.ts';

export interface Settings {
  rounds: number;
  /** Of one slice. */
  seconds: number;
  connections: number;
}

/**
 * The hardened cached read against what answers the same body: Fastify and node:http alone, and with `peers` what
 * one would assemble by hand, from the same packages and from those of Express.
 */
export async function benchRead(
  report: Report,
  world: World,
  settings: Settings,
  peers: boolean,
): Promise<void> {
  const { connections, ...pace } = settings;
  const load = { connections, requests: await world.reads(TENANTS) };
  const sides: HttpSide[] = [
    { name: 'bare Fastify', servers: [await startBare(world)], load },
    { name: 'cached authorised read', servers: [await startService(world)], load },
    { name: 'bare node:http', servers: [await startNodeHttp(world)], load },
  ];
  const addPeer = async (
    name: string,
    start: (keys: 'redis' | 'postgres') => ReturnType<typeof startBare>,
  ) => {
    for (const [keys, how] of [
      ['redis', 'keys in Redis'],
      ['postgres', 'keys by query'],
    ] as const) {
      sides.push({ name: `${name}, ${how}`, servers: [await start(keys)], load, sends: PEER_COMMANDS });
    }
  };
  if (peers) {
    await addPeer('Fastify by hand', (keys) => startAssembled(world, keys));
    await addPeer('Express by hand', (keys) => startExpress(world, keys, (line) => report.say(line)));
  }
  try {
    await compareServers(report, 'Cached read', sides, { ...pace, redis: world.redis }, 1);
  } finally {
    for (const { servers } of sides) for (const server of servers) await server.stop();
  }
}
