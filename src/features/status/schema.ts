import { z } from 'zod';
import { REDIS_STATES } from '../../http/health.ts';

const percent = z.number().min(0).describe('One decimal');
const count = z.int().min(0);
const redis = z.enum(REDIS_STATES);

/** Names with underscores, as operators read them with jq: `.cache.hit_rate_percent`. */
export const Status = z
  .object({
    version: z.string(),
    uptime_seconds: count,
    draining: z.boolean().describe('Whether the process is on its way out'),
    process: z.object({
      cpu_percent: percent.describe('Of one core, over ten seconds'),
      rss_bytes: count,
      heap_used_bytes: count,
      heap_total_bytes: count,
      event_loop_p99_ms: z
        .number()
        .min(0)
        .describe('How late one in a hundred turns of the event loop was, over ten seconds'),
    }),
    database: z.object({
      state: z.enum(['connected', 'disconnected']),
      schema_version: z.string().nullable().describe('The newest migration; null when it is not known'),
      pool_size: count.describe('Most connections of this process'),
      pool_open: count,
      pool_active: count,
      pool_waiting: count.describe('Requests that wait for a connection'),
      pool_utilization_percent: percent.describe('Of the pool, in use'),
      replica_lag_seconds: z.number().min(0).nullable().describe('Null without a replica'),
    }),
    cache: z.object({
      enabled: z.boolean(),
      hits: count.describe('Reads since the start that did not load'),
      misses: count,
      hit_rate_percent: percent.nullable().describe('Null before the first read'),
    }),
    redis: z.object({ limits: redis, cache: redis }),
    rate_limit: z.object({
      mode: z
        .enum(['redis', 'fallback', 'local', 'off'])
        .describe('fallback: Redis is away and each process admits its share; local: there is no Redis'),
    }),
  })
  .meta({ id: 'Status' });

export type Status = z.infer<typeof Status>;
