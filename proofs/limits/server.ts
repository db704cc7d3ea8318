// Goes with the example: src/features/orders
import rateLimitPlugin from '@fastify/rate-limit';
import { fastify, type FastifyRequest } from 'fastify';
import { pino } from 'pino';
import { createMetrics } from '../../src/observability/metrics.ts';
import { rateLimit } from '../../src/rate-limit/plugin.ts';
import { createLeaseRunner } from '../../src/rate-limit/lease-script.ts';
import { createRateLimiter } from '../../src/rate-limit/limiter.ts';
import { openRedis } from '../../src/redis/redis.ts';

/**
 * A route behind a limit of BENCH_LIMIT requests a minute a key, kept by BENCH_STORE: `plugin` (@fastify/rate-limit
 * with its Redis store), `ours as store` (the same plugin, and our leases as its store), `ours`, or `none`.
 */
const { REDIS_URL = '', BENCH_STORE = 'none', BENCH_LIMIT = '' } = process.env;
const max = Number(BENCH_LIMIT);
const keyOf = (request: FastifyRequest) => String(request.headers['x-api-key']);
const app = fastify();
const deps = { log: pino({ level: 'silent' }), metrics: createMetrics('bench') };
const commandTimeoutMs = 1_000;
const redis = openRedis({ url: REDIS_URL, commandTimeoutMs, role: 'limits' }, deps);
const limiter = createRateLimiter({
  ...deps,
  run: createLeaseRunner(redis),
  commandTimeoutMs,
  expectedReplicas: 1,
});

/** What @fastify/rate-limit asks of a store. */
class LeaseStore {
  readonly #open = limiter.rule('minute', 60_000);

  incr(key: string, answer: (error: Error | null, result?: { current: number; ttl: number }) => void): void {
    const verdict = limiter.take([this.#open(key, max)], 1);
    const tell = ({ admitted, left, resetMs }: Awaited<typeof verdict>) =>
      answer(null, { current: admitted ? max - left : max + 1, ttl: resetMs });
    if (verdict instanceof Promise) verdict.then(tell, answer);
    else tell(verdict);
  }

  child(): LeaseStore {
    return this;
  }
}

const common = { max, timeWindow: 60_000, keyGenerator: keyOf };
if (BENCH_STORE === 'plugin') await app.register(rateLimitPlugin, { ...common, redis: redis.client });
if (BENCH_STORE === 'ours as store') await app.register(rateLimitPlugin, { ...common, store: LeaseStore });
if (BENCH_STORE === 'ours') {
  app.decorateRequest('principal', null);
  app.addHook('onRequest', (request, _reply, done) => {
    const keyId = keyOf(request);
    request.principal = { keyId, tenant: keyId, scopes: new Set(), limitPerMinute: null, endsAt: Infinity };
    done();
  });
  await app.register(rateLimit, {
    limiter,
    metrics: deps.metrics,
    perMinute: max,
    burst: 0,
    tenantPerMinute: 0,
    costs: { read: 1, write: 1, query: 1 },
    shadow: false,
    anonymous: undefined,
  });
}
app.get('/', async () => ({ status: 'ok' }));

const url = await app.listen({ host: '127.0.0.1', port: 0 });
process.send?.({ type: 'listening', url });
process.once('disconnect', () => process.exit());
process.once('SIGTERM', () => process.exit());
