import { LogController, fastify, type FastifyBaseLogger, type FastifyInstance } from 'fastify';
import type { Logger } from 'pino';
import { AppError } from './errors.ts';
import { status } from './features/status/routes.ts';
import type { Lifecycle } from './http/shutdown.ts';
import type { Metrics } from './observability/metrics.ts';
import { errorHandler } from './http/problems.ts';
import { shareRun } from './lib/single-flight.ts';
import { validation } from './http/validation.ts';
import type { Services } from './dependencies.ts';

export interface InternalAppOptions {
  log: Logger;
  metrics: Metrics;
  lifecycle: Lifecycle;
  services: Services;
  version: string;
}

/** The listener that is never published: what Prometheus reads, and the status for people. */
export function buildInternalApp(options: InternalAppOptions): FastifyInstance {
  const { metrics, services } = options;
  const { db, replica } = services;
  const loggerInstance: FastifyBaseLogger = options.log;
  const app = fastify({
    requestTimeout: 10_000,
    return503OnClosing: false,
    loggerInstance,
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'request_id' }),
  });
  void app.register(errorHandler, { metrics });
  void app.register(validation);
  app.setNotFoundHandler(() => {
    throw new AppError('not_found', 'Only /metrics and /internal/status are here');
  });

  // Writing the text takes milliseconds of the event loop: once for all who ask meanwhile.
  const scrape = shareRun(async () => {
    metrics.requestsInFlight.set(options.lifecycle.running.length);
    const { size, max, active, waiting } = db.stats();
    metrics.activeConnections.set(size);
    metrics.poolSize.set(max);
    metrics.poolActive.set(active);
    metrics.poolWaiting.set(waiting);
    // Measures, and sets the gauge; ends within a second whether the servers answer or not.
    await replica.lagSeconds();
    return metrics.registry.metrics();
  });

  app.get('/metrics', async (_request, reply) =>
    reply.type(metrics.registry.contentType).send(await scrape()),
  );
  void app.register(status, { ...options, status: services.status, prefix: '/internal' });
  return app;
}
