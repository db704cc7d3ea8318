// Goes with the example: src/features/orders
import cors from '@fastify/cors';
import helmet from '@fastify/helmet';
import rateLimit from '@fastify/rate-limit';
import { fastify } from 'fastify';
import { Redis } from 'ioredis';
import { createHash } from 'node:crypto';
import { Pool } from 'pg';
import { Counter, Histogram, register } from 'prom-client';
import { orderSql } from '../../src/features/orders/repository.ts';

/**
 * What one would put together by hand from the packages that the service uses, each with its defaults: logs,
 * headers, CORS, limits in Redis, metrics, and a cache in Redis in front of Postgres. Keys are looked up for
 * every request, in Redis or (BENCH_KEYS=postgres) by a query.
 */
const { REDIS_URL = '', DATABASE_URL = '', BENCH_KEYS = 'redis' } = process.env;

declare module 'fastify' {
  interface FastifyRequest {
    tenant: string;
  }
}

const redis = new Redis(REDIS_URL);
const db = new Pool({ connectionString: DATABASE_URL });
const requests = new Counter({
  name: 'http_requests_total',
  help: 'Requests',
  labelNames: ['method', 'route', 'status'],
});
const latency = new Histogram({
  name: 'http_request_duration_seconds',
  help: 'Latency',
  labelNames: ['method', 'route', 'status'],
});

const app = fastify({ logger: true });
await app.register(helmet);
await app.register(cors);
await app.register(rateLimit, {
  max: 10_000_000,
  timeWindow: '1 minute',
  redis,
  keyGenerator: (request) => String(request.headers.authorization),
});

app.decorateRequest('tenant', '');
app.addHook('onRequest', async (request, reply) => {
  const token = request.headers.authorization?.replace('Bearer ', '') ?? '';
  const key = await findKey(createHash('sha256').update(token).digest('hex'));
  if (key?.scopes.includes('*')) request.tenant = key.tenant;
  else await reply.code(401).send({ error: 'unauthorized' });
});
app.addHook('onResponse', async (request, reply) => {
  const labels = {
    method: request.method,
    route: request.routeOptions.url ?? 'unknown',
    status: String(reply.statusCode),
  };
  requests.inc(labels);
  latency.observe(labels, reply.elapsedTime / 1000);
});

const text = { type: 'string' };
const integer = { type: 'integer' };
const item = { type: 'object', properties: { sku: text, quantity: integer, unitPriceMinor: integer } };
const properties = {
  id: text,
  reference: text,
  status: text,
  currency: text,
  totalMinor: integer,
  items: { type: 'array', items: item },
  version: integer,
  createdAt: text,
  updatedAt: text,
};

app.get<{ Params: { id: string } }>(
  '/v1/orders/:id',
  {
    schema: {
      params: { type: 'object', properties: { id: { type: 'string', format: 'uuid' } } },
      response: { 200: { type: 'object', properties } },
    },
  },
  async (request, reply) => {
    const { id } = request.params;
    const cacheKey = `peer:order:${request.tenant}:${id}`;
    const cached = await redis.get(cacheKey);
    if (cached !== null) return JSON.parse(cached) as unknown;
    const order = await orderSql.find({ query: ask }, request.tenant, id);
    if (!order) return reply.code(404).send({ error: 'not found' });
    await redis.set(cacheKey, JSON.stringify(order), 'EX', 600);
    return order;
  },
);
app.get('/metrics', async () => register.metrics());

const url = await app.listen({ host: '127.0.0.1', port: 0 });
process.send?.({ type: 'listening', url });
process.once('disconnect', () => process.exit());
process.once('SIGTERM', () => process.exit());

interface Key {
  tenant: string;
  scopes: string[];
}

async function findKey(digest: string): Promise<Key | undefined> {
  if (BENCH_KEYS === 'redis')
    return JSON.parse((await redis.get(`peer:key:${digest}`)) ?? 'null') ?? undefined;
  const { rows } = await db.query<Key>('select tenant, scopes from peer_key where digest = $1', [digest]);
  return rows[0];
}

async function ask<Row extends object>({ text: sql, values }: { text: string; values?: unknown[] }) {
  return (await db.query<Row>(sql, values)).rows;
}
