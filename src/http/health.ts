import type { FastifyReply } from 'fastify';
import fp from 'fastify-plugin';
import { z } from 'zod';
import type { Lifecycle } from './shutdown.ts';

interface HealthOptions {
  lifecycle: Lifecycle;
  version: string;
  /** Rejects when Postgres does not respond in time or its schema is older than this release needs. */
  checkDatabase: () => Promise<void>;
  redisState: () => RedisState;
}

/**
 * `none`: not configured, limits and cache live in this process; `disconnected`, or `degraded` where it takes no
 * writes: they do so until it is back.
 */
export const REDIS_STATES = ['connected', 'degraded', 'disconnected', 'none'] as const;
export type RedisState = (typeof REDIS_STATES)[number];

/** Probes come from every balancer and node: Postgres is asked once for all of them. */
const REMEMBERED_MS = 1_500;
const OK = 200;
const NOT_READY = 503;

const PARTS = {
  database: z.enum(['connected', 'disconnected']),
  redis: z.enum(REDIS_STATES),
};

const LIVE = probe('getLiveness', 'Whether the process runs', {
  [OK]: z.object({ status: z.literal('ok') }),
});

const SERVING = probe('getServing', 'Whether a load balancer should send requests here', {
  [OK]: z.object({ status: z.literal('ok') }),
  [NOT_READY]: z.object({ status: z.enum(['starting', 'draining']) }),
});

const READY = probe('getReadiness', 'Whether everything is there that requests need', {
  [OK]: z.object({ status: z.enum(['ok', 'degraded']), ...PARTS }),
  [NOT_READY]: z.object({
    status: z.enum(['draining', 'unavailable']),
    database: PARTS.database.optional(),
  }),
});

const Health = z
  .object({
    status: z.enum(['healthy', 'degraded', 'draining', 'unhealthy']),
    ...PARTS,
    version: z.string(),
    timestamp: z.iso.datetime(),
  })
  .meta({ id: 'Health' });

const HEALTH = probe('getHealth', 'State of the service and its parts', {
  [OK]: Health,
  [NOT_READY]: Health,
});

/**
 * Liveness asks nobody: a dependency that is away must not restart the fleet. Serving waits for the schema once,
 * and never again: if Postgres is away, it is away for every process, and none could answer from its cache or say
 * 503 with Retry-After. Readiness asks Postgres; Redis away is degraded, because every route works without it.
 */
export const health = fp<HealthOptions>(
  async (app, { lifecycle, version, checkDatabase, redisState }) => {
    let checkedAt = -Infinity;
    let state: Promise<'connected' | 'disconnected'> | undefined;
    let wasReady = false;

    function database() {
      if (!state || performance.now() - checkedAt > REMEMBERED_MS) {
        checkedAt = performance.now();
        state = checkDatabase().then(
          () => {
            wasReady = true;
            return 'connected' as const;
          },
          (error: unknown) => {
            app.log.warn({ error }, 'not ready: Postgres');
            return 'disconnected' as const;
          },
        );
      }
      return state;
    }

    app.get('/health/live', LIVE, (_request, reply) => send(reply, true, { status: 'ok' }));

    app.get('/health/serving', SERVING, async (_request, reply) => {
      if (!lifecycle.draining && !wasReady) await database();
      const status = lifecycle.draining ? 'draining' : wasReady ? 'ok' : 'starting';
      return send(reply, status === 'ok', { status });
    });

    app.get('/health/ready', READY, async (_request, reply) => {
      if (lifecycle.draining) return send(reply, false, { status: 'draining' });
      const parts = { database: await database(), redis: redisState() };
      const isReady = parts.database === 'connected';
      const status = !isReady ? 'unavailable' : isDegraded(parts.redis) ? 'degraded' : 'ok';
      return send(reply, isReady, { status, ...parts });
    });

    app.get('/health', HEALTH, async (_request, reply) => {
      const parts = { database: await database(), redis: redisState() };
      const isUp = parts.database === 'connected';
      const own = !isUp ? 'unhealthy' : isDegraded(parts.redis) ? 'degraded' : 'healthy';
      const status = lifecycle.draining ? 'draining' : own;
      return send(reply, isUp, { status, ...parts, version, timestamp: new Date().toISOString() });
    });
  },
  { name: 'health' },
);

function isDegraded(redis: RedisState): boolean {
  return redis === 'disconnected' || redis === 'degraded';
}

function send(reply: FastifyReply, isOk: boolean, body: object): FastifyReply {
  return reply
    .code(isOk ? OK : NOT_READY)
    .header('cache-control', 'no-store')
    .send(body);
}

/** Asked by machines every few seconds: no key, no limit, no log line. */
function probe(operationId: string, summary: string, response: Record<number, z.ZodType>) {
  return { config: { skipLogging: true }, schema: { tags: ['health'], operationId, summary, response } };
}
