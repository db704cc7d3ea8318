import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { setTimeout as sleep } from 'node:timers/promises';
import { KEY_MEMORY_MS, type KeyRing } from './key-ring.ts';
import type { RedisHandle } from './redis.ts';

const CHANNEL = 'hp:keys:changed';
const ACK_PREFIX = 'hp:keys:ack:';
const POLL_MS = { first: 1, longest: 50 };

/**
 * Makes a change of keys known to every process before the call that made it answers. Each process
 * that heard the message confirms it; the announcer waits until as many have confirmed as Redis
 * delivered it to. A process that stays silent (frozen, cut off) is waited for only as long as it
 * may remember a key at all. Without Redis, or when it is away, that memory alone is the bound.
 */
export function createKeyEvents(ring: KeyRing, redis: RedisHandle | undefined, log: Logger) {
  const subscription = redis?.subscribe(CHANNEL, {
    onMessage(message) {
      const [ack = '', ...ids] = message.split(' ');
      for (const id of ids) ring.forget(id);
      redis.client
        .multi()
        .incr(ACK_PREFIX + ack)
        .pexpire(ACK_PREFIX + ack, 2 * KEY_MEMORY_MS)
        .exec()
        .catch(() => undefined);
    },
    onGap: () => ring.forgetAll(),
  });

  return {
    /** Whether every change reaches this process; undefined without Redis. */
    live(): boolean | undefined {
      return subscription?.live();
    },

    async announce(ids: string[]): Promise<void> {
      for (const id of ids) ring.forget(id);
      if (!redis) return;
      const deadline = performance.now() + KEY_MEMORY_MS;
      const ack = randomUUID();
      try {
        const listeners = await redis.publish(CHANNEL, [ack, ...ids].join(' '));
        for (
          let pauseMs = POLL_MS.first;
          performance.now() < deadline;
          pauseMs = Math.min(2 * pauseMs, POLL_MS.longest)
        ) {
          if (Number(await redis.client.get(ACK_PREFIX + ack)) >= listeners) return;
          await sleep(pauseMs);
        }
        log.warn(
          { keys: ids },
          'a process did not confirm a change of keys; its memory of them has run out by now',
        );
      } catch (error) {
        const reason = (error as Error).message;
        log.warn(
          { keys: ids, reason },
          'a change of keys could not be announced; other processes learn it within 5 s',
        );
      }
    },
  };
}
