/**
 * Limits per key and per tenant: at most L requests in any 60 seconds, over all processes.
 *
 * A process reserves tokens in Redis before it uses them (`lease`), and decides in memory. A reserved token counts
 * until it can no longer fall into the window. A denied request needs no Redis. Responses say the limit, what is left
 * and when it is renewed.
 *
 * Failures: without Redis each process enforces its share, limit / EXPECTED_REPLICAS (`fallback-limiter`), and says
 * so in header, body and metric. It uses Redis again within a second of its return.
 *
 * May be switched off with RATE_LIMIT_ENABLED=false, or deleted with its lines in `app.ts` and `dependencies.ts`.
 */

import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { networkOf } from '../http/client-address.ts';
import { AppError } from '../errors.ts';
import type { Metrics } from '../observability/metrics.ts';
import type { Principal } from '../auth/key-check.ts';
import type { Lease } from './lease-state.ts';
import type { RateLimiter, RateLimitDecision } from './limiter.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** A request to this route counts for RATE_LIMIT_COST_QUERY instead of what its method costs. */
    expensive?: boolean;
  }
}

export interface RateLimitOptions {
  limiter: RateLimiter;
  metrics: Metrics;
  perMinute: number;
  /** Most of one key in one second, and of all keys of a tenant in a minute; 0 for no such bound. */
  burst: number;
  tenantPerMinute: number;
  costs: { read: number; write: number; query: number };
  /** Refuse nothing, only count. */
  shadow: boolean;
  /** Who a request without a key is, and is limited by its address; undefined when every request needs one. */
  anonymous: Principal | undefined;
}

interface Bound {
  /** Its name in the headers, and as a label of the metric. */
  name: 'second' | 'minute' | 'tenant';
  label: 'burst' | 'key' | 'tenant';
  windowSeconds: number;
  open: (request: FastifyRequest) => Lease;
}

/**
 * The limits of each key (of each address where no key is needed) and of each tenant; a request that one
 * of them refuses costs nothing of the others. Answers carry `RateLimit-Policy` and `RateLimit` of
 * draft-ietf-httpapi-ratelimit-headers-10 for the limit that is closest, refusals `Retry-After` as well,
 * and all of them name the same moment.
 */
export const rateLimit = fp<RateLimitOptions>(
  async (app, { limiter, metrics, perMinute, burst, tenantPerMinute, costs, shadow, anonymous }) => {
    const subjectOf = (request: FastifyRequest) => {
      const { principal } = request;
      return principal && principal !== anonymous ? principal.keyId : networkOf(request.ip);
    };
    const bounds: Bound[] = [];
    if (burst > 0) {
      const ofSecond = limiter.rule('second', 1_000);
      const open = (request: FastifyRequest) => ofSecond(subjectOf(request), burst);
      bounds.push({ name: 'second', label: 'burst', windowSeconds: 1, open });
    }
    const ofMinute = limiter.rule('minute', 60_000);
    bounds.push({
      name: 'minute',
      label: 'key',
      windowSeconds: 60,
      open: (request) => ofMinute(subjectOf(request), request.principal?.limitPerMinute ?? perMinute),
    });
    if (tenantPerMinute > 0) {
      const ofTenant = limiter.rule('tenant', 60_000);
      const tenantOf = (request: FastifyRequest) => request.principal?.tenant ?? subjectOf(request);
      const open = (request: FastifyRequest) => ofTenant(tenantOf(request), tenantPerMinute);
      bounds.push({ name: 'tenant', label: 'tenant', windowSeconds: 60, open });
    }

    app.addHook('onRequest', (request, reply, done) => {
      const leases = bounds.map(({ open }) => open(request));
      const cost = costOf(request);
      if (shadow) {
        for (const [index, lease] of leases.entries()) void watch(bounds[index] as Bound, lease, cost);
        return done();
      }
      // In the same turn while the leases last.
      const decision = limiter.take(leases, cost);
      if (decision instanceof Promise) decision.then(judge, done);
      else judge(decision);

      function judge(found: RateLimitDecision): void {
        const { name, label, windowSeconds } = bounds[found.index] as Bound;
        const seconds = Math.max(1, Math.ceil(found.resetMs / 1000));
        reply.header('ratelimit-policy', `"${name}";q=${found.max};w=${windowSeconds}`);
        reply.header('ratelimit', `"${name}";r=${found.left};t=${seconds}`);
        if (found.admitted) return done();
        metrics.rateLimitHits.inc({ limit: label });
        const share =
          found.max < found.limit ? `, the share of this process of ${found.limit} without Redis` : '';
        const detail = `More than ${found.max} requests in ${windowSeconds} s${share}`;
        done(new AppError('rate_limited', detail, { retryAfterSeconds: seconds }));
      }
    });

    async function watch({ label }: Bound, lease: Lease, cost: number): Promise<void> {
      const { admitted } = await limiter.take([lease], cost);
      if (!admitted) metrics.rateLimitHits.inc({ limit: label });
    }

    function costOf({ method, routeOptions }: FastifyRequest): number {
      if (routeOptions.config.expensive) return costs.query;
      return method === 'GET' || method === 'HEAD' ? costs.read : costs.write;
    }
  },
  { name: 'rate-limit' },
);
