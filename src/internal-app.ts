import { fastify, type FastifyInstance } from 'fastify';
import { AppError } from './errors.ts';
import type { Metrics } from './metrics.ts';
import { errorHandler } from './plugins/error-handler.ts';
import type { Db } from './stores/postgres.ts';

/** The listener that is never published: what Prometheus reads. */
export function buildInternalApp({ metrics, db }: { metrics: Metrics; db: Db }): FastifyInstance {
  const app = fastify({ requestTimeout: 10_000, return503OnClosing: false });
  void app.register(errorHandler, { metrics });
  app.setNotFoundHandler(() => {
    throw new AppError('not_found', 'Only /metrics is here');
  });

  app.get('/metrics', async (_request, reply) => {
    const { size, max, active, waiting } = db.stats();
    metrics.activeConnections.set(size);
    metrics.poolSize.set(max);
    metrics.poolActive.set(active);
    metrics.poolWaiting.set(waiting);
    return reply.type(metrics.registry.contentType).send(await metrics.registry.metrics());
  });
  return app;
}
