/**
 * API keys: who calls, and what the caller may do.
 *
 * Each request below /v1 needs a key with the scope of its route. The cache (`key-cache`) decides a known key in
 * memory and synchronously. `key-check` verifies an unknown key with Postgres, many in one statement. A change of a
 * key is one transaction with its audit event; `invalidation` then tells every process. Only an HMAC digest of a key
 * is stored.
 *
 * Failures: without Redis a change reaches other processes within 5 s. Without Postgres known keys work for 5 minutes
 * and unknown keys get 503. An address with too many failed attempts waits, and gets 429 if its next key is bad as
 * well.
 *
 * Everything below /v1 needs this folder. `seed-keys` may go if nobody uses API_KEYS.
 */

import rateLimit from '@fastify/rate-limit';
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { networkOf } from '../http/client-address.ts';
import { AppError } from '../errors.ts';
import { createFailedAttempts } from './failed-attempts.ts';
import type { AuthFailure, Metrics } from '../observability/metrics.ts';
import { OPERATOR_TENANT, type AuditQueue, type Denial } from './audit-queue.ts';
import { hasScope, type AuthResult, type Principal } from './key-check.ts';
import type { ApiKeyCache } from './key-cache.ts';
import type { KeyUsage } from './usage.ts';

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

interface AuthOptions {
  keys: ApiKeyCache;
  usage: KeyUsage;
  auditQueue: AuditQueue;
  /** Of one client address, after which it is refused unseen. */
  failuresPerMinute: number;
  metrics: Metrics;
  /** Who a request without a key is; undefined when every request needs one. */
  anonymous: Principal | undefined;
}

const MINUTE_MS = 60_000;
const REMEMBERED_ADDRESSES = 50_000;
const OVERLOAD_RETRY_SECONDS = 2;

/**
 * API keys: deny by default. A hot key is checked in memory and synchronously. Any other key is looked up in
 * Postgres; behind an address that has failed too often that takes longer, and a bad key is 429 instead of 401.
 */
export const auth = fp<AuthOptions>(
  async (app, { keys, usage, auditQueue, failuresPerMinute, metrics, anonymous }) => {
    await app.register(rateLimit, {
      global: false,
      max: failuresPerMinute,
      timeWindow: MINUTE_MS,
      cache: REMEMBERED_ADDRESSES,
      keyGenerator: ({ ip }) => networkOf(ip),
    });
    const attempts = createFailedAttempts(app.createRateLimit());

    app.addHook('onRoute', (route) => {
      if (route.config?.scope === undefined) {
        throw new Error(`${String(route.method)} ${route.url} declares no scope: add config: { scope: '…' }`);
      }
    });

    app.addHook('onError', (request, _reply, error, done) => {
      const denial = describeExcess(request, error);
      if (denial) auditQueue.deny(denial);
      done();
    });

    app.addHook('onRequest', (request, reply, done) => {
      // What a key can read belongs in no shared cache; a route that knows better says so itself.
      reply.header('cache-control', 'no-store');
      const token = presentedKey(request);
      if (token === undefined && anonymous) return done(admit(request, anonymous));
      const known = typeof token === 'string' ? keys.peek(token) : undefined;
      if (known && 'principal' in known) done(admit(request, known.principal));
      else authenticate(request, token, known).then(done, done);
    });

    async function authenticate(
      request: FastifyRequest,
      token: string | null | undefined,
      known: AuthResult | undefined,
    ): Promise<AppError | undefined> {
      const result = known ?? (await lookUp(request, token));
      if (!result) {
        const waitSeconds = await attempts.waitSeconds(request);
        return waitSeconds > 0 ? tooManyAttempts(waitSeconds) : overloaded();
      }
      if ('principal' in result) return admit(request, result.principal);
      auditQueue.deny(describeRefused(request, result));
      if (result.refused === 'revoked') metrics.revokedKeyAttempts.inc();
      const waitSeconds = await attempts.fail(request);
      return waitSeconds > 0 ? tooManyAttempts(waitSeconds) : fail(unauthorized(), result.refused);
    }

    async function lookUp(
      request: FastifyRequest,
      token: string | null | undefined,
    ): Promise<AuthResult | undefined> {
      if (typeof token !== 'string') return { refused: token === null ? 'malformed' : 'missing' };
      // No guess of a stranger: the key was good before, or is being looked up already.
      if (keys.recognizes(token)) return keys.find(token);
      return attempts.lookUp(request, () => keys.find(token));
    }

    /** The error of a key without the scope of the route. */
    function admit(request: FastifyRequest, principal: Principal): AppError | undefined {
      request.principal = principal;
      if (principal !== anonymous) usage.mark(principal.keyId);
      const { scope } = request.routeOptions.config;
      if (scope === undefined || hasScope(principal, scope)) return undefined;
      return fail(new AppError('forbidden', `This key lacks the scope ${scope}`), 'scope');
    }

    function tooManyAttempts(retryAfterSeconds: number): AppError {
      metrics.rateLimitHits.inc({ limit: 'ip' });
      const text = 'Too many failed attempts from this address';
      return fail(new AppError('rate_limited', text, { retryAfterSeconds }), 'limited');
    }

    function fail(error: AppError, reason: AuthFailure): AppError {
      metrics.authFailures.inc({ reason });
      return error;
    }
  },
  { name: 'auth' },
);

/** A key that was good once belongs to a tenant; who guesses is known by the address alone. */
function describeRefused(
  { id: requestId, ip }: FastifyRequest,
  { refused: reason, key }: Extract<AuthResult, { refused: unknown }>,
): Denial {
  const event = { requestId, ip, reason };
  if (key) {
    const { keyId, tenant } = key;
    return { ...event, tenant, action: 'api_key.refused', actor: keyId, object: `api_key:${keyId}` };
  }
  const object = `address:${networkOf(ip)}`;
  return { ...event, tenant: OPERATOR_TENANT, action: 'authentication.failed', actor: 'anonymous', object };
}

/** What a known key may not do, or not so often. Undefined for every other error. */
function describeExcess(request: FastifyRequest, error: Error): Denial | undefined {
  const { principal, id: requestId, ip, method, routeOptions } = request;
  const code = error instanceof AppError && error.code;
  if (!principal || (code !== 'forbidden' && code !== 'rate_limited')) return undefined;
  const { keyId: actor, tenant } = principal;
  const event = { tenant, actor, requestId, ip, reason: error.message };
  if (code === 'rate_limited') return { ...event, action: 'rate_limit.exceeded', object: `api_key:${actor}` };
  return { ...event, action: 'access.denied', object: `${method} ${routeOptions.url ?? 'unmatched'}` };
}

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

function overloaded(): AppError {
  return new AppError('overloaded', 'Too many keys wait to be looked up; try again', {
    retryAfterSeconds: OVERLOAD_RETRY_SECONDS,
  });
}

/** The key of a request, undefined when there is none, null when it was sent in a way that says nothing clear. */
function presentedKey({ headers }: FastifyRequest): string | null | undefined {
  const { authorization, 'x-api-key': apiKey } = headers;
  if (authorization === undefined) return Array.isArray(apiKey) ? null : apiKey;
  if (!/^Bearer /i.test(authorization)) return null;
  const token = authorization.slice('Bearer '.length).trim();
  return apiKey === undefined || apiKey === token ? token : null;
}
