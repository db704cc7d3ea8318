import rateLimitPlugin, { normalizeIP, type FastifyRateLimitStoreCtor } from '@fastify/rate-limit';
import type { FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { AppError } from '../errors.ts';
import type { Metrics } from '../metrics.ts';
import type { Principal } from '../stores/key-ring.ts';

export interface RateLimitOptions {
  store: FastifyRateLimitStoreCtor;
  perMinute: number;
  /** Largest number of requests in one second; 0 for no such bound. */
  burst: number;
  metrics: Metrics;
  /** Who a request without a key is, and is limited by its address; undefined when every request needs one. */
  anonymous: Principal | undefined;
}

const WINDOW_SECONDS = 60;

/**
 * The limit of each key (of each address where no key is needed). Answers carry `RateLimit-Policy`
 * and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-10, refusals `Retry-After` as well, and
 * all of them name the same moment.
 */
export const rateLimit = fp<RateLimitOptions>(
  async (app, { store, perMinute, burst, metrics, anonymous }) => {
    await app.register(rateLimitPlugin, { global: false, store });
    const keyGenerator = ({ principal, ip }: FastifyRequest) =>
      principal && principal !== anonymous ? principal.keyId : normalizeIP(ip);
    const limitOf = ({ principal }: FastifyRequest) => principal?.limitPerMinute ?? perMinute;
    const checkMinute = app.createRateLimit({
      max: limitOf,
      timeWindow: WINDOW_SECONDS * 1000,
      keyGenerator,
    });
    const checkSecond =
      burst > 0 ? app.createRateLimit({ max: burst, timeWindow: 1000, keyGenerator }) : undefined;

    app.addHook('onRequest', async (request, reply) => {
      const second = await checkSecond?.(request);
      if (second && !second.isAllowed && second.isExceeded) {
        refuse(reply, 'burst', burst, 1, second.ttlInSeconds);
      }
      const minute = await checkMinute(request);
      if (minute.isAllowed) return;
      if (minute.isExceeded) refuse(reply, 'key', minute.max, WINDOW_SECONDS, minute.ttlInSeconds);
      announce(reply, 'minute', minute.max, WINDOW_SECONDS, minute.remaining, minute.ttlInSeconds);
    });

    function refuse(
      reply: FastifyReply,
      limit: 'key' | 'burst',
      max: number,
      window: number,
      waitSeconds: number,
    ): never {
      const retryAfterSeconds = Math.max(1, waitSeconds);
      metrics.rateLimitHits.inc({ limit });
      announce(reply, limit === 'key' ? 'minute' : 'second', max, window, 0, retryAfterSeconds);
      throw new AppError('rate_limited', `More than ${max} requests in ${window} s`, { retryAfterSeconds });
    }
  },
  { name: 'rate-limit' },
);

function announce(
  reply: FastifyReply,
  name: string,
  max: number,
  window: number,
  rest: number,
  resetSeconds: number,
) {
  reply.header('ratelimit-policy', `"${name}";q=${max};w=${window}`);
  reply.header('ratelimit', `"${name}";r=${rest};t=${resetSeconds}`);
}
