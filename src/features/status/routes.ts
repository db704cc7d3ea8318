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
        summary: 'State of the process that responds, and of what it depends on',
        response: { 200: schema.Status },
      },
    },
    async (_request, reply): Promise<schema.Status> => {
      reply.header('cache-control', 'no-store');
      return {
        version: options.version,
        uptime_seconds: Math.floor(performance.now() / 1000),
        draining: options.lifecycle.draining,
        ...(await options.status.read()),
      };
    },
  );
}
