import type { FastifyInstance } from 'fastify';
import type { Lifecycle } from '../../http/shutdown.ts';
import type { StatusReader } from './repository.ts';
import type { ZodProvider } from '../../http/resource/zod-types.ts';
import * as schema from './schema.ts';

export interface StatusRoutesOptions {
  status: StatusReader;
  lifecycle: Lifecycle;
  version: string;
}

/** The state of this process as JSON, on the internal listener and, for keys with the scope, below /v1. */
export async function status(scope: FastifyInstance, options: StatusRoutesOptions): Promise<void> {
  const app = scope.withTypeProvider<ZodProvider>();

  app.get(
    '/status',
    {
      config: { scope: 'status:read' },
      schema: {
        tags: ['status'],
        operationId: 'getStatus',
        summary: 'State of the process that answers, and of what it depends on',
        response: { 200: schema.Status },
      },
    },
    async (_request, reply): Promise<schema.Status> => {
      const { process: usage, database, cache, redis, rateLimit } = await options.status.read();
      const { pool } = database;
      reply.header('cache-control', 'no-store');
      return {
        version: options.version,
        uptime_seconds: Math.floor(performance.now() / 1000),
        draining: options.lifecycle.draining,
        process: {
          cpu_percent: toTenths(usage.cpuPercent),
          rss_bytes: usage.rssBytes,
          heap_used_bytes: usage.heapUsedBytes,
          heap_total_bytes: usage.heapTotalBytes,
          event_loop_p99_ms: toTenths(usage.eventLoopP99Ms),
        },
        database: {
          state: database.state,
          schema_version: database.schemaVersion,
          pool_size: pool.size,
          pool_open: pool.open,
          pool_active: pool.active,
          pool_waiting: pool.waiting,
          pool_utilization_percent: toTenths((100 * pool.active) / pool.size),
          replica_lag_seconds: database.replicaLagSeconds,
        },
        cache: {
          enabled: cache.enabled,
          hits: cache.hits,
          misses: cache.misses,
          hit_rate_percent: cache.hitRatio === null ? null : toTenths(100 * cache.hitRatio),
        },
        redis,
        rate_limit: { mode: rateLimit },
      };
    },
  );
}

function toTenths(value: number): number {
  return Math.round(10 * value) / 10;
}
