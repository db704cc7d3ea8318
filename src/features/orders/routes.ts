import type { FastifyInstance, FastifyReply } from 'fastify';
import { z } from 'zod';
import { callerOf } from '../../auth/caller.ts';
import { UUID, type Cursors } from '../../http/resource/pagination.ts';
import {
  IfMatchHeader,
  IfNoneMatchHeader,
  matchesEtag,
  requireIfMatch,
  versionEtag,
} from '../../http/resource/etag.ts';
import { IdempotencyKeyHeader, type Idempotency } from '../../idempotency/repository.ts';
import type { ZodProvider } from '../../http/resource/zod-types.ts';
import * as schema from './schema.ts';
import { createOrderService, type OrderServiceDeps } from './service.ts';

interface OrderRoutesOptions extends OrderServiceDeps {
  idempotency: Idempotency;
  cursors: Cursors;
}

const TAGS = ['orders'];
const BY_ID = '/orders/:id';

/** HTTP of orders: takes from the request, calls the service, answers. */
export async function orders(scope: FastifyInstance, options: OrderRoutesOptions): Promise<void> {
  const app = scope.withTypeProvider<ZodProvider>();
  const { idempotency } = options;
  const pages = options.cursors.of('orders', UUID);
  const service = createOrderService(options);

  app.post(
    '/orders',
    {
      config: { scope: 'orders:write', idempotent: true },
      schema: {
        tags: TAGS,
        operationId: 'createOrder',
        summary: 'Create an order',
        headers: IdempotencyKeyHeader,
        body: schema.NewOrder,
        response: { 201: schema.Order },
        responseHeaders: ['Location', 'ETag'],
        failures: ['conflict'],
      },
    },
    async (request, reply) => {
      const response = await service.create(callerOf(request), request.body, (create) =>
        idempotency.run(request.idempotency, async (tx) => {
          const order = await create(tx);
          const headers = { location: `/v1/orders/${order.id}`, etag: versionEtag(order.version) };
          return { status: 201, headers, body: order };
        }),
      );
      return reply
        .code(201)
        .headers(response.headers)
        .send(response.body as schema.Order);
    },
  );

  app.get(
    BY_ID,
    {
      config: { scope: 'orders:read' },
      schema: {
        tags: TAGS,
        operationId: 'getOrder',
        summary: 'Read an order',
        params: schema.OrderId,
        headers: IfNoneMatchHeader,
        response: { 200: schema.Order, 304: z.null().describe('Unchanged since the ETag in If-None-Match') },
        responseHeaders: ['ETag', 'Age'],
      },
    },
    async (request, reply) => {
      const { etag, ageSeconds, json } = await service.get(callerOf(request), request.params.id, {
        etagOf: ({ version }) => versionEtag(version),
        write: reply.getSerializationFunction('200'),
      });
      reply.header('etag', etag).header('cache-control', 'private, no-cache').header('age', ageSeconds);
      if (matchesEtag(request.headers['if-none-match'], etag)) return reply.code(304).send();
      return sendJson(reply, json);
    },
  );

  app.get(
    '/orders',
    {
      config: { scope: 'orders:read' },
      schema: {
        tags: TAGS,
        operationId: 'listOrders',
        summary: 'List orders, newest first',
        querystring: schema.ListQuery,
        response: { 200: schema.OrderPage },
      },
    },
    async (request) => {
      const { cursor, limit } = request.query;
      const data = await service.list(callerOf(request), request.query, pages.before(cursor));
      return { data, next: pages.next(data, limit) };
    },
  );

  app.get(
    '/orders/summary',
    {
      config: { scope: 'orders:read', expensive: true },
      schema: {
        tags: TAGS,
        operationId: 'summarizeOrders',
        summary: 'Orders and sums by day, status and currency',
        querystring: schema.SummaryQuery,
        response: { 200: schema.OrderSummary },
        responseHeaders: ['Age'],
        failures: ['result_too_large'],
      },
    },
    async (request, reply) => {
      const { ageSeconds, json } = await service.summary(callerOf(request), request.query, {
        write: reply.getSerializationFunction('200'),
      });
      reply.header('age', ageSeconds);
      return sendJson(reply, json);
    },
  );

  app.patch(
    BY_ID,
    {
      config: { scope: 'orders:write' },
      schema: {
        tags: TAGS,
        operationId: 'changeOrder',
        summary: 'Move an order to its next status',
        params: schema.OrderId,
        headers: IfMatchHeader,
        body: schema.OrderChange,
        response: { 200: schema.Order },
        responseHeaders: ['ETag'],
        failures: ['illegal_transition'],
      },
    },
    async (request, reply) => {
      const known = requireIfMatch(request.headers['if-match']);
      const order = await service.setStatus(callerOf(request), request.params.id, known, request.body.status);
      reply.header('etag', versionEtag(order.version));
      return order;
    },
  );

  app.delete(
    BY_ID,
    {
      config: { scope: 'orders:write' },
      schema: {
        tags: TAGS,
        operationId: 'deleteOrder',
        summary: 'Delete an order',
        params: schema.OrderId,
        headers: IfMatchHeader,
        response: { 204: z.null().describe('Deleted') },
      },
    },
    async (request, reply) => {
      await service.remove(callerOf(request), request.params.id, requireIfMatch(request.headers['if-match']));
      return reply.code(204).send();
    },
  );
}

/** What the serializer of the route wrote when it was loaded goes out as it is. */
function sendJson(reply: FastifyReply, json: string | undefined): FastifyReply {
  return reply.type('application/json; charset=utf-8').send(json);
}
