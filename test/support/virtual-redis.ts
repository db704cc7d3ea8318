import { setImmediate as nextTurn } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { LEASE_SCRIPT } from '../../src/rate-limit/lease-script.ts';
import type { RunScript } from '../../src/rate-limit/lease.ts';

/**
 * What becomes of the questions of one process: answered, not sent, lost on the way back, executed too late,
 * or answered after some time.
 */
export type Link = 'up' | 'refused' | 'answer lost' | 'too late' | 'slow';

/** The script, with its time from a key; what has ended by that time is gone as if Redis had dropped it. */
const VIRTUAL_SCRIPT = `
local function alive(state, now)
  local ends = string.match(state or '', '(%d+) %d+L?$')
  return ends and tonumber(ends) > now and state or ''
end
${LEASE_SCRIPT}`
  .replace("redis.call('time')", "redis.call('hmget', 'clock', 's', 'us')")
  .replace("redis.call('get', KEYS[1]) or ''", "alive(redis.call('get', KEYS[1]), now)")
  .replace(/, 'px', .*\)$/m, ')');

/** A real Redis that runs the real script, at a time that the test sets. */
export function openVirtualRedis(url: string) {
  const client = new Redis(url);
  client.defineCommand('virtualLease', { numberOfKeys: 1, lua: VIRTUAL_SCRIPT });
  const lease = (client as unknown as { virtualLease(id: string, ...args: number[]): Promise<number[]> })
    .virtualLease;
  let trueMs = 0;
  let serverMs = 1_700_000_000_000;
  const running = new Set<Promise<unknown>>();
  /** For the next moment. */
  const late: (() => unknown)[] = [];

  async function execute(id: string, args: number[]): Promise<number[]> {
    const clock = client.hset('clock', 's', Math.floor(serverMs / 1000), 'us', (serverMs % 1000) * 1000);
    const answer = Promise.all([lease.call(client, id, ...args), clock]).then(([reply]) => reply);
    running.add(answer);
    return answer.finally(() => running.delete(answer));
  }

  return {
    /** Ms since the test began, as every process knows it. */
    now: () => trueMs,
    flush: () => client.flushdb(),
    close: () => client.disconnect(),

    /** Forgets all, and begins at another hour. */
    async reset(): Promise<void> {
      await client.flushdb();
      late.length = 0;
      serverMs += 1_000_000;
    },

    advance(ms: number): void {
      trueMs += ms;
      serverMs += ms;
      for (const happen of late.splice(0)) happen();
    },

    /** Sets the server's clock ahead or back. */
    shiftClock(ms: number): void {
      serverMs += ms;
    },

    runnerOf(link: () => Link): RunScript {
      return async (id, args) => {
        if (link() === 'up') return execute(id, args);
        if (link() === 'slow') {
          const answer = await execute(id, args);
          return new Promise((resolve) => late.push(() => resolve(answer)));
        }
        if (link() === 'answer lost') await execute(id, args);
        if (link() === 'too late') late.push(() => execute(id, args));
        throw new Error('no answer');
      };
    },

    /** Resolves when no question is under way any more. */
    async settle(): Promise<void> {
      for (let quietTurns = 0; quietTurns < 3; quietTurns += 1) {
        await nextTurn();
        if (running.size > 0) quietTurns = -1;
        await Promise.allSettled(running);
      }
    },
  };
}

export type VirtualRedis = ReturnType<typeof openVirtualRedis>;
