import type { Logger } from 'pino';
import type { Config } from './config/config.ts';
import { withTimeout } from './lib/timeouts.ts';
import type { Metrics } from './observability/metrics.ts';
import { createAfterWrite } from './cache/after-write.ts';
import { createApiKeyAdmin } from './auth/administration.ts';
import { startAuditQueue } from './auth/audit-queue.ts';
import { createCache, createNoCache } from './cache/cache.ts';
import { createCursors } from './http/resource/pagination.ts';
import { createDatabaseCheck } from './postgres/readiness.ts';
import { startIdempotency } from './idempotency/repository.ts';
import { createKeyInvalidation } from './auth/invalidation.ts';
import type { Principal } from './auth/key-check.ts';
import { createApiKeyCache } from './auth/key-cache.ts';
import { startKeyUsage } from './auth/usage.ts';
import { openPostgres } from './postgres/postgres.ts';
import { createLeaseRunner } from './rate-limit/lease-script.ts';
import { createRateLimiter } from './rate-limit/limiter.ts';
import type { RedisRole } from './redis/problems.ts';
import { openRedis, warnOfSharedServer } from './redis/redis.ts';
import { createReplicaReader } from './postgres/replica/replica.ts';
import { createWritePositions } from './postgres/replica/write-positions.ts';
import type { UsageSource } from './features/status/process-usage.ts';
import { startStatus } from './features/status/repository.ts';
import { findNewestMigration } from './migrations/files.ts';

export type Services = ReturnType<typeof openServices>;

/** AUTH_REQUIRED=false, which the configuration allows on loopback only: everybody may do everything. */
const ANONYMOUS: Principal = {
  keyId: 'anonymous',
  tenant: 'public',
  scopes: new Set(['*']),
  limitPerMinute: null,
  endsAt: Infinity,
};

const REDIS_PATIENCE_MS = 1_000;

/** Opens what the app works with. Nothing here waits: Postgres and Redis may come later, or back. */
export function openServices(
  config: Config,
  { log, metrics, usageSource }: { log: Logger; metrics: Metrics; usageSource: UsageSource },
) {
  const { replicaUrl, migrationUrl: _, ...primary } = config.postgres;
  const { url, cacheUrl, commandTimeoutMs } = config.redis;
  const deps = { log, metrics };
  const redisFor = (role: RedisRole, from: string | undefined) =>
    from === undefined ? undefined : openRedis({ url: from, commandTimeoutMs, role }, deps);

  const db = openPostgres({ ...primary, applicationName: 'hardpoint' }, { ...deps, target: 'primary' });
  const replicaDb =
    replicaUrl === undefined
      ? undefined
      : openPostgres(
          { ...primary, url: replicaUrl, readOnly: true, applicationName: 'hardpoint-replica' },
          { ...deps, target: 'replica' },
        );
  const redis = redisFor('limits', url);
  const cacheRedis = config.cache.enabled ? redisFor('cache', cacheUrl) : undefined;
  if (redis && cacheRedis && cacheUrl !== url) warnOfSharedServer(redis, cacheRedis, log);

  const single = config.rateLimit.expectedReplicas === 1;
  const keys = createApiKeyCache(db, { ...config.auth, isInformed: () => invalidation.live() });
  const environment = config.auth.keyEnvironment;
  const invalidation = createKeyInvalidation(keys, redis, { environment, single }, log);
  const usage = startKeyUsage(db, log);
  const auditQueue = startAuditQueue(db, log);
  const idempotency = startIdempotency(db, { ...config.idempotency, secretKey: config.auth.secretKey, log });
  const singleProcess = cacheRedis === undefined && single;
  const limiter = createRateLimiter({
    ...deps,
    run: redis && createLeaseRunner(redis),
    commandTimeoutMs,
    expectedReplicas: config.rateLimit.expectedReplicas,
  });
  const positions = createWritePositions(redis);
  const replica = createReplicaReader({ primary: db, replica: replicaDb, positions }, deps);
  const cache = config.cache.enabled
    ? createCache(
        { prefix: 'hp:cache', ...config.cache, singleProcess },
        { ...deps, ...(cacheRedis && { redis: cacheRedis }) },
      )
    : createNoCache();
  const afterWrite = createAfterWrite({ announce: invalidation.announce, log, replica, cache });
  const status = startStatus({
    db,
    replica: replicaDb && replica,
    redis: { limits: redis, cache: cacheRedis },
    cacheEnabled: config.cache.enabled,
    rateLimitEnabled: config.rateLimit.enabled,
    metrics,
    usageSource,
  });

  return {
    db,
    replica,
    cache,
    afterWrite,
    cursors: createCursors(config.auth.secretKey),
    idempotency,
    admin: createApiKeyAdmin(db, { ...config.auth, afterWrite }),
    auth: {
      keys,
      usage,
      auditQueue,
      failuresPerMinute: config.auth.failuresPerMinute,
      anonymous: config.auth.required ? undefined : ANONYMOUS,
    },
    limiter,
    status,
    health: {
      checkDatabase: createDatabaseCheck(db, findNewestMigration()),
      redisState: () => {
        const handles = [redis, cacheRedis].filter((handle) => handle !== undefined);
        if (handles.length === 0) return 'none' as const;
        const states = handles.map((handle) => handle.state());
        return (['disconnected', 'degraded'] as const).find((state) => states.includes(state)) ?? 'connected';
      },
    },
    /** Resolves when every Redis can be used, or after a second: who begins without it begins with a share. */
    async redisReady(): Promise<void> {
      const away = [redis, cacheRedis].filter((handle) => handle !== undefined && !handle.ready());
      const waits = away.map((handle) => new Promise<void>((resolve) => handle?.onReady(resolve)));
      await withTimeout(Promise.all(waits), REDIS_PATIENCE_MS);
    },
    /** After the last request, in this order: what is still to be written, Redis, Postgres. */
    closers: [
      { name: 'last use of keys', close: usage.close },
      { name: 'audit events', close: auditQueue.close },
      { name: 'idempotency', close: idempotency.close },
      { name: 'status', close: status.close },
      { name: 'rate limits', close: limiter.close },
      ...[redis, cacheRedis].flatMap((handle) => (handle ? [{ name: 'redis', close: handle.close }] : [])),
      ...[replicaDb, db].flatMap((pool) => (pool ? [{ name: 'postgres', close: pool.close }] : [])),
    ],
  };
}
