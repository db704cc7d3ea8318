import { normalizeIP } from '@fastify/rate-limit';
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { AppError } from '../errors.ts';
import type { AuthFailure, Metrics } from '../metrics.ts';
import type { FailedAttempts } from '../stores/failed-attempts.ts';
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
  attempts: FailedAttempts;
  metrics: Metrics;
  /** Who a request without a key is; undefined when every request needs one. */
  anonymous: Principal | undefined;
}

/**
 * API keys: deny by default. A hot key is answered from memory and synchronously; anything else
 * first passes the limit on failed attempts of its address, then asks Postgres.
 */
export const auth = fp<AuthOptions>(
  async (app, { keys, usage, attempts, metrics, anonymous }) => {
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

      const address = normalizeIP(request.ip);
      if (typeof token === 'string' && !verdict && keys.recognizes(token)) {
        keys.find(token).then(judge, done);
        return;
      }
      const waitSeconds = attempts.blockedForSeconds(address);
      if (waitSeconds > 0) {
        metrics.rateLimitHits.inc({ limit: 'ip' });
        return fail(tooManyAttempts(waitSeconds), 'limited');
      }
      if (typeof token !== 'string') return refuse(token === undefined ? 'missing' : 'malformed');
      if (verdict) return judge(verdict);
      attempts.during(address, () => keys.find(token)).then(judge, done);

      function judge(found: Verdict): void {
        if ('principal' in found) admit(found.principal);
        else refuse(found.refused);
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

      function refuse(reason: AuthFailure): void {
        attempts.fail(address);
        if (reason === 'revoked') metrics.revokedKeyAttempts.inc();
        fail(unauthorized(), reason);
      }

      function fail(error: AppError, reason: AuthFailure): void {
        metrics.authFailures.inc({ reason });
        done(error);
      }
    });
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
