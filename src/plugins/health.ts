import fp from 'fastify-plugin';
import type { Lifecycle } from '../lifecycle.ts';

export interface HealthOptions {
  lifecycle: Lifecycle;
  version: string;
  /** Rejects when Postgres does not answer in time or its schema is older than this release needs. */
  checkDatabase: () => Promise<void>;
  redisState: () => RedisState;
}

/** `none`: not configured, limits and cache live in this process; `disconnected`: they do so until it is back. */
export type RedisState = 'connected' | 'disconnected' | 'none';

interface DatabaseState {
  database: 'connected' | 'disconnected';
}

/** Probes come from every balancer and node: Postgres is asked once for all of them. */
const REMEMBERED_MS = 1_500;
const OK = 200;
const NOT_READY = 503;
const quiet = { config: { quiet: true } };

/**
 * Liveness asks nobody: a dependency that is away must not restart the fleet. Readiness asks
 * Postgres; Redis away is degraded, not down, because every route works without it.
 */
export const health = fp<HealthOptions>(
  async (app, { lifecycle, version, checkDatabase, redisState }) => {
    let checkedAt = -Infinity;
    let answer: Promise<DatabaseState> | undefined;

    function database(): Promise<DatabaseState> {
      if (!answer || performance.now() - checkedAt > REMEMBERED_MS) {
        checkedAt = performance.now();
        answer = checkDatabase().then(
          () => ({ database: 'connected' as const }),
          (error: unknown) => {
            app.log.warn({ error }, 'not ready: Postgres');
            return { database: 'disconnected' as const };
          },
        );
      }
      return answer;
    }

    app.get('/health/live', quiet, (_request, reply) =>
      reply.header('cache-control', 'no-store').send({ status: 'ok' }),
    );

    app.get('/health/ready', quiet, async (_request, reply) => {
      reply.header('cache-control', 'no-store');
      if (lifecycle.draining) return reply.code(NOT_READY).send({ status: 'draining' });
      const state = await database();
      if (state.database === 'disconnected')
        return reply.code(NOT_READY).send({ status: 'unavailable', ...state });
      return { status: redisState() === 'disconnected' ? 'degraded' : 'ok', ...state, redis: redisState() };
    });

    app.get('/health', quiet, async (_request, reply) => {
      reply.header('cache-control', 'no-store');
      const state = await database();
      const down = state.database === 'disconnected' || lifecycle.draining;
      const degraded = redisState() === 'disconnected';
      const status = lifecycle.draining ? 'draining' : down ? 'unhealthy' : degraded ? 'degraded' : 'healthy';
      return reply
        .code(down ? NOT_READY : OK)
        .send({ status, ...state, redis: redisState(), version, timestamp: new Date().toISOString() });
    });
  },
  { name: 'health' },
);
