import type { Logger } from 'pino';
import { AppError } from '../errors.ts';
import type { CacheKey } from './serialization.ts';
import type { Cache } from './cache.ts';
import type { ReplicaReader } from '../postgres/replica/replica.ts';

/** What a write may have changed that other parts of the service remember. */
export interface Changes {
  tenant: string;
  /** Of the request that writes, for the log. */
  requestId: string | null;
  cached?: CacheKey[];
  /** Ids of API keys. */
  apiKeys?: string[];
}

export interface Written<T> {
  result: T;
  /** False if other processes could not be told of changed API keys: they follow within `KEY_MEMORY_MS`. */
  everywhere: boolean;
}

export interface AfterWriteDeps {
  /** Tells every process that keys changed; resolves when they know, or to false when they cannot be told. */
  announce: (ids: string[], requestId: string | null) => Promise<boolean>;
  log: Logger;
  replica?: Pick<ReplicaReader, 'recordWritePosition'>;
  cache?: Pick<Cache, 'invalidate'>;
}

export type AfterWrite = <T>(transaction: Promise<T>, changes: Changes) => Promise<Written<T>>;

/** A connection that breaks at COMMIT does not stop the COMMIT: what is read meanwhile is the old state. */
const LATE_COMMIT_MS = 5_000;

/**
 * Waits for a transaction and does what has to follow its commit: records the write position for replicas,
 * invalidates the cache, announces changed API keys. A commit is a success, so this rejects only if the
 * transaction does. If the outcome of a COMMIT is unknown, the same follows before the error is thrown, and
 * once more when the COMMIT must be over.
 */
export function createAfterWrite({ announce, log, replica, cache }: AfterWriteDeps): AfterWrite {
  async function follow({ tenant, requestId, cached = [], apiKeys = [] }: Changes): Promise<boolean> {
    const settled = async (step: () => Promise<unknown> | undefined) => {
      try {
        return await step();
      } catch (error) {
        log.error({ error, request_id: requestId }, 'a step after a write failed');
        return false;
      }
    };
    const announced = apiKeys.length === 0 || settled(() => announce(apiKeys, requestId));
    // In this order: whoever misses the cache must not load from a replica that lacks the write.
    await settled(() => replica?.recordWritePosition(tenant, requestId ?? undefined));
    await settled(() => cache?.invalidate(...cached));
    return (await announced) === true;
  }

  return async (transaction, changes) => {
    try {
      const result = await transaction;
      return { result, everywhere: await follow(changes) };
    } catch (error) {
      // Also for a statement that took too long: to invalidate too much costs a load.
      if (error instanceof AppError && error.code === 'timeout') {
        await follow(changes);
        setTimeout(() => void follow(changes), LATE_COMMIT_MS).unref();
      }
      throw error;
    }
  };
}
