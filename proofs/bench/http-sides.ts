// Goes with the example: src/features/orders
import type { Redis } from 'ioredis';
import { drive, type Load } from './drive.ts';
import type { Measured, Report, Row } from './report.ts';
import { takeTurns } from './rounds.ts';
import type { Server } from './servers.ts';

export interface HttpSide {
  name: string;
  servers: Server[];
  load: Omit<Load, 'duration' | 'amount'>;
  /** Commands that it sends to Redis by itself: what a script calls inside is counted by Redis, but not sent. */
  sends?: string[];
}

/** Before each slice, not counted: what is hot when it is used all the time was not while the others had their turn. */
const REMINDER_SECONDS = 0.4;
const SCRIPTS = ['eval', 'evalsha', 'fcall'];

export interface Pace {
  rounds: number;
  /** Of one slice. */
  seconds: number;
  /** Counts the commands that Redis gets, where it is given. */
  redis?: Redis;
}

/** Loads all sides in turns, and reports what a request costs each of them. */
export async function compareServers(
  report: Report,
  title: string,
  sides: HttpSide[],
  pace: Pace,
  ours?: number,
): Promise<Row[]> {
  return report.compare(title, await measureServers(sides, pace), ours);
}

export async function measureServers(
  sides: HttpSide[],
  { rounds, seconds, redis }: Pace,
): Promise<Measured[]> {
  for (const { servers, load } of sides) await drive(servers, { ...load, duration: Math.max(2, seconds) });
  const seen = sides.map(() => ({ perSecond: [] as number[], sent: 0, count: 0 }));
  const turns = sides.map(({ name, servers, load, sends = [] }, index) => ({
    name,
    run: async () => {
      const known = seen[index];
      await drive(servers, { ...load, duration: REMINDER_SECONDS });
      const [sentBefore, before] = [await countCommands(redis, sends), await cpuMicros(servers)];
      const { count, perSecond } = await drive(servers, { ...load, duration: seconds });
      const cost = ((await cpuMicros(servers)) - before) / count;
      known?.perSecond.push(perSecond);
      if (known) known.sent += (await countCommands(redis, sends)) - sentBefore;
      if (known) known.count += count;
      return cost;
    },
  }));
  const micros = await takeTurns(turns, rounds);
  return sides.map(({ name }, index) => {
    const { perSecond = [], sent = 0, count = 1 } = seen[index] ?? {};
    return {
      name,
      micros: micros[index] ?? [],
      perSecond: perSecond.slice(1),
      redisCommands: redis && sent / count,
    };
  });
}

async function cpuMicros(servers: Server[]): Promise<number> {
  const usages = await Promise.all(servers.map((server) => server.usage()));
  return usages.reduce((sum, usage) => sum + usage.cpuMicros, 0);
}

async function countCommands(redis: Redis | undefined, sends: string[]): Promise<number> {
  if (!redis) return 0;
  const names = new Set([...SCRIPTS, ...sends]);
  const stats = await redis.info('commandstats');
  return [...stats.matchAll(/^cmdstat_(\w+):calls=(\d+)/gm)]
    .filter(([, name = '']) => names.has(name))
    .reduce((sum, [, , calls]) => sum + Number(calls), 0);
}
