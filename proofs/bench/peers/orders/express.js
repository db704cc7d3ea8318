// Goes with the example: src/features/orders
import cors from 'cors';
import express from 'express';
import { rateLimit } from 'express-rate-limit';
import helmet from 'helmet';
import { Redis } from 'ioredis';
import { createHash } from 'node:crypto';
import { Pool } from 'pg';
import { pinoHttp } from 'pino-http';
import { Counter, Histogram, register } from 'prom-client';
import { RedisStore } from 'rate-limit-redis';

/**
 * The same as proofs/bench/assembled.ts with Express and the packages that go with it, each with its defaults. Keys are
 * looked up for every request, in Redis or (BENCH_KEYS=postgres) by a query.
 */
const { REDIS_URL = '', DATABASE_URL = '', BENCH_KEYS = 'redis', BENCH_STATEMENT = '' } = process.env;

const redis = new Redis(REDIS_URL);
const db = new Pool({ connectionString: DATABASE_URL });
const labelNames = ['method', 'route', 'status'];
const requests = new Counter({ name: 'http_requests_total', help: 'Requests', labelNames });
const latency = new Histogram({ name: 'http_request_duration_seconds', help: 'Latency', labelNames });

const app = express();
app.use(pinoHttp());
app.use((request, response, next) => {
  const end = latency.startTimer();
  response.once('finish', () => {
    const route = request.route?.path ?? 'unknown';
    const labels = { method: request.method, route, status: String(response.statusCode) };
    requests.inc(labels);
    end(labels);
  });
  next();
});
app.use(helmet());
app.use(cors());
app.use(express.json());
app.use(async (request, response, next) => {
  const token = request.get('authorization')?.replace('Bearer ', '') ?? '';
  const key = await findKey(createHash('sha256').update(token).digest('hex'));
  if (!key?.scopes.includes('*')) return response.status(401).json({ error: 'unauthorized' });
  request.tenant = key.tenant;
  return next();
});
app.use(
  rateLimit({
    windowMs: 60_000,
    limit: 10_000_000,
    standardHeaders: true,
    keyGenerator: (request) => String(request.get('authorization')),
    store: new RedisStore({ sendCommand: (command, ...rest) => redis.call(command, ...rest) }),
  }),
);

const UUID = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i;

app.get('/v1/orders/:id', async (request, response) => {
  const { id } = request.params;
  if (!UUID.test(id)) return response.status(400).json({ error: 'not an id' });
  const cacheKey = `peer:order:${request.tenant}:${id}`;
  const cached = await redis.get(cacheKey);
  if (cached !== null) return response.json(JSON.parse(cached));
  const { rows } = await db.query(BENCH_STATEMENT, [request.tenant, id]);
  if (!rows[0]) return response.status(404).json({ error: 'not found' });
  await redis.set(cacheKey, JSON.stringify(rows[0]), 'EX', 600);
  return response.json(rows[0]);
});
app.get('/metrics', async (_request, response) => response.send(await register.metrics()));

const server = app.listen(0, '127.0.0.1', () => {
  process.send?.({ type: 'listening', url: `http://127.0.0.1:${server.address().port}` });
});
process.once('disconnect', () => process.exit());
process.once('SIGTERM', () => process.exit());

async function findKey(digest) {
  if (BENCH_KEYS === 'redis') return JSON.parse((await redis.get(`peer:key:${digest}`)) ?? 'null');
  const { rows } = await db.query('select tenant, scopes from peer_key where digest = $1', [digest]);
  return rows[0];
}
