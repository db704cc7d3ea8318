// Goes with the example: src/features/orders
import { fastify } from 'fastify';

/** The floor: Fastify alone, answering the same body through a compiled serializer. */
const body = JSON.parse(process.env.BENCH_BODY ?? '{}') as Record<string, unknown>;
const app = fastify();
const properties = Object.fromEntries(
  Object.entries(body).map(([name, value]) => [
    name,
    Array.isArray(value)
      ? {
          type: 'array',
          items: {
            type: 'object',
            properties: {
              sku: { type: 'string' },
              quantity: { type: 'integer' },
              unitPriceMinor: { type: 'integer' },
            },
          },
        }
      : { type: typeof value === 'number' ? 'integer' : 'string' },
  ]),
);
app.get(
  '/v1/orders/:id',
  { schema: { response: { 200: { type: 'object', properties } } } },
  async () => body,
);
const url = await app.listen({ host: '127.0.0.1', port: 0 });
process.send?.({ type: 'listening', url });
process.once('disconnect', () => process.exit());
