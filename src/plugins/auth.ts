import rateLimit from '@fastify/rate-limit';
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { AppError } from '../errors.ts';
import { createFailedAttempts } from '../failed-attempts.ts';
import type { AuthFailure, Metrics } from '../metrics.ts';
import { hasScope, type KeyRing, type Principal, type Verdict } from '../stores/key-ring.ts';
import type { KeyUsage } from '../stores/key-usage.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Set by the auth plugin for every request below /v1; null elsewhere. */
    principal: Principal | null;
  }
  interface FastifyContextConfig {
    /** What the key must be allowed to; every route below /v1 names one. */
    scope?: string;
  }
}

export interface AuthOptions {
  keys: KeyRing;
  usage: KeyUsage;
  /** Of one client address, after which it is refused unseen. */
  failuresPerMinute: number;
  metrics: Metrics;
  /** Who a request without a key is; undefined when every request needs one. */
  anonymous: Principal | undefined;
}

/** What is to be done with a request: a verdict, or a refusal that asked nobody. */
type Judgement = Verdict | { refused: AuthFailure } | { waitSeconds: number };

const MINUTE_MS = 60_000;
const REMEMBERED_ADDRESSES = 50_000;

/**
 * API keys: deny by default. A hot key is answered from memory and synchronously; anything else
 * first passes the limit on failed attempts of its address, then asks Postgres.
 */
export const auth = fp<AuthOptions>(
  async (app, { keys, usage, failuresPerMinute, metrics, anonymous }) => {
    const limit = { global: false, max: failuresPerMinute, timeWindow: MINUTE_MS };
    await app.register(rateLimit, { ...limit, cache: REMEMBERED_ADDRESSES });
    const attempt = createFailedAttempts(app.createRateLimit());

    app.addHook('onRoute', (route) => {
      if (route.config?.scope === undefined) {
        throw new Error(`${String(route.method)} ${route.url} declares no scope: add config: { scope: '…' }`);
      }
    });

    app.addHook('onRequest', (request, reply, done) => {
      // What a key can read belongs in no shared cache; a route that knows better says so itself.
      reply.header('cache-control', 'no-store');
      const token = presentedKey(request);
      if (token === undefined && anonymous) return admit(anonymous);
      const verdict = typeof token === 'string' ? keys.peek(token) : undefined;
      if (verdict && 'principal' in verdict) return admit(verdict.principal);

      if (typeof token === 'string' && !verdict && keys.recognizes(token)) {
        keys.find(token).then(judge, done);
        return;
      }
      attempt<Judgement>(request, token ?? undefined, () => verdict ?? look(token)).then(judge, done);

      function judge(found: Judgement): void {
        if ('principal' in found) return admit(found.principal);
        if ('waitSeconds' in found) return limited(found.waitSeconds);
        if (found.refused === 'revoked') metrics.revokedKeyAttempts.inc();
        fail(unauthorized(), found.refused);
      }

      function admit(principal: Principal): void {
        request.principal = principal;
        if (principal !== anonymous) usage.mark(principal.keyId);
        const { scope } = request.routeOptions.config;
        if (scope !== undefined && !hasScope(principal, scope)) {
          return fail(new AppError('forbidden', `This key lacks the scope ${scope}`), 'scope');
        }
        done();
      }

      function limited(waitSeconds: number): void {
        metrics.rateLimitHits.inc({ limit: 'ip' });
        fail(tooManyAttempts(waitSeconds), 'limited');
      }

      function fail(error: AppError, reason: AuthFailure): void {
        metrics.authFailures.inc({ reason });
        done(error);
      }
    });

    function look(token: string | null | undefined): Judgement | Promise<Verdict> {
      if (typeof token === 'string') return keys.find(token);
      return { refused: token === undefined ? 'missing' : 'malformed' };
    }
  },
  { name: 'auth' },
);

/** The one 401: missing, malformed, unknown, revoked and expired keys must look the same from outside. */
function unauthorized(): AppError {
  return new AppError(
    'unauthorized',
    'Send a valid API key as "Authorization: Bearer <key>" or "X-API-Key: <key>"',
    {
      headers: { 'www-authenticate': 'Bearer realm="api"' },
    },
  );
}

function tooManyAttempts(retryAfterSeconds: number): AppError {
  return new AppError('rate_limited', 'Too many failed attempts from this address', { retryAfterSeconds });
}

/** The key of a request, undefined when there is none, null when it was sent in a way that says nothing clear. */
function presentedKey({ headers }: FastifyRequest): string | null | undefined {
  const { authorization, 'x-api-key': apiKey } = headers;
  if (authorization === undefined) return Array.isArray(apiKey) ? null : apiKey;
  if (!/^Bearer /i.test(authorization)) return null;
  const token = authorization.slice('Bearer '.length).trim();
  return apiKey === undefined || apiKey === token ? token : null;
}
