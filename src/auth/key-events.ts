import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { createKeyAnnouncer, keyChannels } from './invalidation.ts';
import type { KeyRing } from './key-cache.ts';
import type { RedisHandle } from '../redis/redis.ts';

/**
 * Hears of changes of keys, forgets what they concern, and confirms it; and announces changes that are made
 * here. A loss of the channel forgets everything, for changes may have been missed.
 */
export function createKeyEvents(
  ring: KeyRing,
  redis: RedisHandle | undefined,
  { environment, single }: { environment: string; single: boolean },
  log: Logger,
) {
  const { changes, ofProcess } = keyChannels(environment);
  const own = ofProcess(randomUUID());
  // Before the own channel, which tells the others that this process listens.
  const subscription = redis?.subscribe(changes, {
    onMessage(message) {
      const [announcement = '', replyChannel = '', ...ids] = message.split(' ');
      for (const id of ids) ring.forget(id);
      redis.publish(replyChannel, `${announcement} ${own}`).catch(() => undefined);
    },
    onGap: () => ring.forgetAll(),
  });
  const tellOthers = redis && createKeyAnnouncer(redis, { environment, replyChannel: own }, log);

  return {
    /** Whether every change reaches this process; undefined without Redis. */
    live(): boolean | undefined {
      return subscription?.live();
    },

    /** Resolves when every process knows that these keys changed, or no longer remembers them; false: they cannot be told. */
    async announce(ids: string[], requestId: string | null): Promise<boolean> {
      for (const id of ids) ring.forget(id);
      return tellOthers ? (await tellOthers(ids, requestId)) !== 'unreachable' : single;
    },
  };
}
