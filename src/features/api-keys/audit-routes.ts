import type { FastifyInstance } from 'fastify';
import { auditSql } from '../../auth/audit-log.ts';
import { callerOf } from '../../auth/caller.ts';
import { UUID, type Cursors } from '../../http/resource/pagination.ts';
import type { Db } from '../../postgres/postgres.ts';
import type { ZodProvider } from '../../http/resource/zod-types.ts';
import * as schema from './schema.ts';

/** The trail of what was done to the keys of one's own tenant, and of what was denied to them. */
export function auditRoutes(scope: FastifyInstance, { db, cursors }: { db: Db; cursors: Cursors }): void {
  const pages = cursors.of('audit-events', UUID);
  const app = scope.withTypeProvider<ZodProvider>();

  app.get(
    '/audit-events',
    {
      config: { scope: 'audit:read' },
      schema: {
        tags: ['api-keys'],
        operationId: 'listAuditEvents',
        summary: 'What was done to keys and denied to them, newest first',
        querystring: schema.PageQuery,
        response: { 200: schema.AuditEventPage },
      },
    },
    async (request) => {
      const { limit, cursor } = request.query;
      const events = await auditSql.list(db, callerOf(request).tenant, limit, pages.before(cursor));
      return { data: events, next: pages.next(events, limit) };
    },
  );
}
