import { normalizeIP } from '@fastify/rate-limit';
import type { FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { AppError } from '../errors.ts';
import type { Metrics } from '../metrics.ts';
import type { Principal } from '../stores/key-ring.ts';
import type { RateLimiter, RateLimitRule, Verdict } from '../stores/rate-limit.ts';

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
  rule: RateLimitRule;
  subjectOf: (request: FastifyRequest) => string;
  maxOf: (request: FastifyRequest) => number;
}

/**
 * The limits of each key (of each address where no key is needed) and of each tenant. Answers carry
 * `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-10 for the limit that is
 * closest, refusals `Retry-After` as well, and all of them name the same moment.
 */
export const rateLimit = fp<RateLimitOptions>(
  async (app, { limiter, metrics, perMinute, burst, tenantPerMinute, costs, shadow, anonymous }) => {
    const bounds: Bound[] = [];
    const subjectOf = ({ principal, ip }: FastifyRequest) =>
      principal && principal !== anonymous ? principal.keyId : normalizeIP(ip);
    const minute = { name: 'minute', label: 'key', windowSeconds: 60, subjectOf } as const;
    const maxOf = ({ principal }: FastifyRequest) => principal?.limitPerMinute ?? perMinute;
    if (burst > 0) {
      const second = { name: 'second', label: 'burst', windowSeconds: 1, subjectOf } as const;
      bounds.push({ ...second, rule: limiter.rule('second', 1_000), maxOf: () => burst });
    }
    bounds.push({ ...minute, rule: limiter.rule('minute', 60_000), maxOf });
    if (tenantPerMinute > 0) {
      const tenant = { name: 'tenant', label: 'tenant', windowSeconds: 60 } as const;
      const rule = limiter.rule('tenant', 60_000);
      const tenantOf = (request: FastifyRequest) => request.principal?.tenant ?? subjectOf(request);
      bounds.push({ ...tenant, rule, subjectOf: tenantOf, maxOf: () => tenantPerMinute });
    }

    app.addHook('onRequest', (request, reply, done) => {
      const cost = costOf(request);
      let closest: { bound: Bound; verdict: Verdict } | undefined;
      check(0);

      /** Goes on in the same turn while leases last, and after a question to Redis when one does not. */
      function check(from: number): void {
        for (let i = from; i < bounds.length; i++) {
          const bound = bounds[i] as Bound;
          const found = bound.rule.take(bound.subjectOf(request), bound.maxOf(request), cost);
          if (found instanceof Promise) {
            found.then((verdict) => judge(i, verdict) && check(i + 1), done);
            return;
          }
          if (!judge(i, found)) return;
        }
        if (closest && !shadow) announce(reply, closest.bound, closest.verdict);
        done();
      }

      function judge(i: number, verdict: Verdict): boolean {
        const bound = bounds[i] as Bound;
        if (verdict.admitted) {
          if (!closest || verdict.left < closest.verdict.left) closest = { bound, verdict };
          return true;
        }
        metrics.rateLimitHits.inc({ limit: bound.label });
        if (shadow) return true;
        for (const paid of bounds.slice(0, i)) paid.rule.refund(paid.subjectOf(request), cost);
        const retryAfterSeconds = announce(reply, bound, verdict);
        const { windowSeconds } = bound;
        done(
          new AppError('rate_limited', `More than ${verdict.max} requests in ${windowSeconds} s`, {
            retryAfterSeconds,
          }),
        );
        return false;
      }
    });

    function costOf({ method, routeOptions }: FastifyRequest): number {
      if (routeOptions.config.expensive) return costs.query;
      return method === 'GET' || method === 'HEAD' ? costs.read : costs.write;
    }
  },
  { name: 'rate-limit' },
);

/** Returns the seconds until the moment that it named. */
function announce(reply: FastifyReply, { name, windowSeconds }: Bound, verdict: Verdict): number {
  const seconds = Math.max(1, Math.ceil(verdict.resetMs / 1000));
  reply.header('ratelimit-policy', `"${name}";q=${verdict.max};w=${windowSeconds}`);
  reply.header('ratelimit', `"${name}";r=${verdict.left};t=${seconds}`);
  return seconds;
}
