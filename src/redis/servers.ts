import type { Redis } from 'ioredis';
import type { Logger } from 'pino';
import { explainFailure, findServerProblems, findSharedServer } from './problems.ts';
import type { RedisHandle, RedisRole } from './redis.ts';
import type { RedisTarget } from './url.ts';

/** The fields of INFO, such as `run_id`; none where this user may not ask. */
export type ServerInfo = ReadonlyMap<string, string>;

/** One for each server that answered. */
export async function readServerInfo(servers: Redis[]): Promise<ServerInfo[]> {
  const replies = await Promise.allSettled(servers.map((server) => server.info()));
  return replies.flatMap((reply) => (reply.status === 'fulfilled' ? [parseInfo(reply.value)] : []));
}

export function parseInfo(text: string): ServerInfo {
  return new Map(text.split('\r\n').map((line) => line.split(':', 2) as [string, string]));
}

/** Tells what is wrong with servers that answer, each thing once however often they are looked at. */
export function createServerCheck(role: RedisRole, topology: RedisTarget['topology'], log: Logger) {
  const told = new Set<string>();

  function tell(mend: string, fields: { reason?: string } = {}): void {
    if (told.has(mend)) return;
    told.add(mend);
    log.warn({ ...fields, mend }, 'Redis is not set up as it should be');
  }

  return async (servers: Redis[]): Promise<void> => {
    for (const info of await readServerInfo(servers)) {
      for (const mend of findServerProblems(info, role, topology)) tell(mend);
    }
    for (const result of await Promise.allSettled(servers.map(runScript))) {
      if (result.status === 'fulfilled') continue;
      const { message } = result.reason as Error;
      const mend = explainFailure(result.reason);
      if (mend !== undefined && /NOPERM|unknown command/i.test(message)) tell(mend, { reason: message });
    }
  };
}

/** As ioredis does it: the text first, then its digest. */
async function runScript(server: Redis): Promise<void> {
  await server.eval('return 1', 0);
  await server.evalsha('e0e1f9fabfc9d4800c877a703b823ac0578ff8db', 0);
}

/** For two URLs that are not the same: tells once when their servers are, and one role can starve the other. */
export function tellSharedServer(limits: RedisHandle, cache: RedisHandle, log: Logger): void {
  let told = false;
  const compare = async () => {
    if (told || !limits.ready() || !cache.ready()) return;
    const mend = findSharedServer(await limits.readInfo(), await cache.readInfo());
    if (mend === undefined || told) return;
    told = true;
    log.warn({ upstream: 'redis', mend }, 'Redis is not set up as it should be');
  };
  limits.onReady(() => void compare());
  cache.onReady(() => void compare());
}
