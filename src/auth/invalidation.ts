import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { KEY_MEMORY_MS, type ApiKeyCache } from './key-cache.ts';
import type { RedisHandle } from '../redis/redis.ts';

const REPEAT_MS = 100;
const RETRY_MS = 20;
/** Longer than it takes to make a lost connection anew. */
const RECONNECT_MS = 250;

/** Channels of one environment: another one on the same Redis is neither heard nor waited for. */
function channelsOf(environment: string) {
  const prefix = `hp:keys:${environment}`;
  return {
    /** Messages are `CHANGE REPLY_CHANNEL KEY_ID…`. */
    changes: `${prefix}:changed`,
    /** Prefix of one channel for each process that caches keys: a publisher waits for those that subscribe to one. */
    processes: `${prefix}:process:`,
    /** Prefix of one for each command, which caches none. Both kinds get `CHANGE PROCESS_CHANNEL` as confirmation. */
    commands: `${prefix}:command:`,
  };
}

/**
 * Makes a change of keys known to every process before the call that made it returns: repeats the message until each
 * process has confirmed it or left. Redis knows the processes by their channels, so nothing is stored that could be
 * flushed, evicted or outdated. A process that does not confirm (frozen, cut off) is waited for only as long as it may
 * remember a key at all, and not again before it sends something. `own`: the channel of this process, if it has one.
 */
export function createKeyPublisher(
  redis: RedisHandle,
  environment: string,
  log: Logger,
  own = channelsOf(environment).commands + randomUUID(),
) {
  const { changes, processes } = channelsOf(environment);
  const pending = new Map<string, { missing: Set<string>; done: () => void }>();
  const unresponsive = new Set<string>();
  const replies = redis.subscribe(own, {
    onMessage(message) {
      const [change = '', process = ''] = message.split(' ');
      unresponsive.delete(process);
      const waiting = pending.get(change);
      if (waiting?.missing.delete(process) && waiting.missing.size === 0) waiting.done();
    },
    // A confirmation that was missed is sent again.
    onGap: () => undefined,
  });

  async function send(message: string, missing: Set<string>, isFirst: boolean): Promise<void> {
    const present = new Set(await redis.channels(processes));
    for (const process of unresponsive) if (!present.has(process)) unresponsive.delete(process);
    for (const process of missing) if (!present.has(process)) missing.delete(process);
    if (isFirst) for (const process of present) if (!unresponsive.has(process)) missing.add(process);
    missing.delete(own);
    await redis.publish(changes, message);
  }

  /**
   * Resolves when no other process trusts the old state of these keys, or to false if Redis is away: then others may
   * for KEY_MEMORY_MS. `requestId`, of the request that made the change, is for the log.
   */
  return async function publish(keys: string[], requestId: string | null): Promise<boolean> {
    const startedAt = performance.now();
    const change = randomUUID();
    const message = [change, own, ...keys].join(' ');
    const missing = new Set<string>();
    const done = new Promise<void>((resolve) => pending.set(change, { missing, done: resolve }));
    const fields = { keys, ...(requestId !== null && { request_id: requestId }) };
    let sent = false;
    let reason: string | undefined;
    let everywhere = true;
    while (everywhere && (!sent || missing.size > 0) && performance.now() - startedAt < KEY_MEMORY_MS) {
      try {
        await send(message, missing, !sent);
        sent = true;
        reason = undefined;
        if (missing.size > 0) await Promise.race([done, sleep(REPEAT_MS, undefined, { ref: false })]);
      } catch (error) {
        reason = (error as Error).message;
        // One late reply is no outage.
        everywhere = redis.ready() || performance.now() - startedAt <= RECONNECT_MS;
        if (everywhere) await sleep(RETRY_MS);
      }
    }
    pending.delete(change);
    if (reason !== undefined) {
      const text = 'a change of keys could not be announced; other processes learn it within 5 s';
      log.warn({ ...fields, reason }, text);
    } else if (missing.size > 0) {
      if (replies.live()) for (const process of missing) unresponsive.add(process);
      log.warn(fields, 'a process did not confirm a change of keys; its memory of them has run out by now');
    }
    return everywhere;
  };
}

/**
 * Forgets the keys that others change, and confirms it; publishes changes that are made here. If messages may have
 * been missed, no cached key is trusted. `single`: there is no other process.
 */
export function createKeyInvalidation(
  cache: ApiKeyCache,
  redis: RedisHandle | undefined,
  { environment, single }: { environment: string; single: boolean },
  log: Logger,
) {
  const { changes, processes } = channelsOf(environment);
  const own = processes + randomUUID();
  // Before the own channel, which tells the publishers that this process listens.
  const subscription = redis?.subscribe(changes, {
    onMessage(message) {
      const [change = '', replyChannel = '', ...ids] = message.split(' ');
      for (const id of ids) cache.forget(id);
      redis.publish(replyChannel, `${change} ${own}`).catch(() => undefined);
    },
    onGap: cache.distrustAll,
  });
  const publish = redis && createKeyPublisher(redis, environment, log, own);

  return {
    /** Whether every change reaches this process. */
    live: (): boolean => subscription?.live() ?? single,

    /** Resolves when every process knows that these keys changed, or to false if they cannot be told. */
    async announce(ids: string[], requestId: string | null): Promise<boolean> {
      for (const id of ids) cache.forget(id);
      return publish ? publish(ids, requestId) : single;
    },
  };
}
