import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { setTimeout as sleep } from 'node:timers/promises';
import { KEY_MEMORY_MS } from './key-cache.ts';
import type { RedisHandle } from '../redis/redis.ts';

/** Names in Redis; of one environment, so that no other on the same Redis is heard or waited for. */
export function keyChannels(environment: string) {
  const prefix = `hp:keys:${environment}`;
  return {
    /** Messages are `ANNOUNCEMENT REPLY_CHANNEL KEY_ID…`. */
    changes: `${prefix}:changed`,
    /** One for each process that remembers keys: who listens on such a channel is waited for. */
    ofProcess: (id = '') => `${prefix}:process:${id}`,
    /** Of a command, which remembers none. Both kinds get `ANNOUNCEMENT PROCESS_CHANNEL` as confirmation. */
    ofCommand: (id: string) => `${prefix}:command:${id}`,
  };
}

/**
 * What became of it: every process confirmed; those who did not have forgotten by now what they knew; or Redis
 * is away, and others may go by what they know for KEY_MEMORY_MS more.
 */
export type Announced = 'confirmed' | 'outlived' | 'unreachable';

const REPEAT_MS = 100;
const RETRY_MS = 20;
/** Longer than it takes to make a lost connection anew. */
const PATIENCE_MS = 250;

/**
 * Makes a change of keys known to every process before the call that made it answers: says it again
 * until each has confirmed it or left. Redis knows who is there, by their channels, so nothing is
 * stored that could be flushed, evicted or outdated. A process that stays silent (frozen, cut off) is
 * waited for only as long as it may remember a key at all, and not again before it was heard of.
 * Without Redis that memory alone is the bound, and nobody waits for it.
 */
export function createKeyAnnouncer(
  redis: RedisHandle,
  { environment, replyChannel }: { environment: string; replyChannel: string },
  log: Logger,
) {
  const { changes, ofProcess } = keyChannels(environment);
  const waiting = new Map<string, { missing: Set<string>; done: () => void }>();
  const silent = new Set<string>();
  const replies = redis.subscribe(replyChannel, {
    onMessage(message) {
      const [announcement = '', process = ''] = message.split(' ');
      silent.delete(process);
      const announced = waiting.get(announcement);
      if (announced?.missing.delete(process) && announced.missing.size === 0) announced.done();
    },
    // A confirmation that was missed meanwhile is given again.
    onGap: () => undefined,
  });

  async function tell(message: string, missing: Set<string>, isFirst: boolean): Promise<void> {
    const present = new Set(await redis.listened(ofProcess()));
    for (const process of silent) if (!present.has(process)) silent.delete(process);
    for (const process of missing) if (!present.has(process)) missing.delete(process);
    if (isFirst) for (const process of present) if (!silent.has(process)) missing.add(process);
    missing.delete(replyChannel);
    await redis.publish(changes, message);
  }

  /** `requestId`: of the request that made the change, for the log. */
  return async function announce(ids: string[], requestId: string | null): Promise<Announced> {
    const startedAt = performance.now();
    const announcement = randomUUID();
    const change = { keys: ids, ...(requestId !== null && { request_id: requestId }) };
    const message = [announcement, replyChannel, ...ids].join(' ');
    const missing = new Set<string>();
    const done = new Promise<void>((resolve) => waiting.set(announcement, { missing, done: resolve }));
    let failure: Error | undefined;
    try {
      for (let told = false; !told || missing.size > 0;) {
        const elapsedMs = performance.now() - startedAt;
        // An answer that came late is no outage.
        const isAway = failure && !redis.ready() && elapsedMs > PATIENCE_MS;
        if (isAway || elapsedMs >= KEY_MEMORY_MS) {
          giveUp(change, missing, failure);
          return isAway ? 'unreachable' : 'outlived';
        }
        try {
          await tell(message, missing, !told);
          told = true;
          failure = undefined;
          if (missing.size > 0) await Promise.race([done, sleep(REPEAT_MS, undefined, { ref: false })]);
        } catch (error) {
          failure = error as Error;
          await sleep(RETRY_MS);
        }
      }
      return silent.size === 0 ? 'confirmed' : 'outlived';
    } finally {
      waiting.delete(announcement);
    }
  };

  function giveUp(change: object, missing: Set<string>, failure: Error | undefined): void {
    if (failure) {
      const { message: reason } = failure;
      log.warn(
        { ...change, reason },
        'a change of keys could not be announced; other processes learn it within 5 s',
      );
      return;
    }
    if (replies.live()) for (const process of missing) silent.add(process);
    log.warn(change, 'a process did not confirm a change of keys; its memory of them has run out by now');
  }
}
