/**
 * `Idempotency-Key`: a repeated request has one effect and gets the first response again.
 *
 * The record, the response and the effect are one transaction in Postgres, so that none exists without the others. A
 * request that comes while the first one runs gets 409. Another request under the same key gets 422. A response that
 * holds a secret is stored encrypted, for the API key that got it. Records are deleted after IDEMPOTENCY_TTL_SECONDS.
 *
 * Failures: without Postgres the request fails as a whole (503), and may be repeated. Redis is not involved.
 *
 * May be deleted with its line in `app.ts` and `config.idempotent` of the routes.
 */

import { createHash } from 'node:crypto';
import type { preHandlerHookHandler } from 'fastify';
import fp from 'fastify-plugin';
import { AppError } from '../errors.ts';
import { IDEMPOTENCY_KEY, type IdempotentRequest } from './repository.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Set on routes with `config.idempotent` when the client sent an `Idempotency-Key`. */
    idempotency: IdempotentRequest | undefined;
  }
  interface FastifyContextConfig {
    /** `sealed`: the stored response holds a secret. It is encrypted, and only the same API key gets it again. */
    idempotent?: true | 'sealed';
  }
}

/**
 * Reads `Idempotency-Key` and takes the fingerprint of what is asked; the store does the rest. Where a repeat
 * would not be recognized the header is refused: a client that sends it relies on it.
 */
export const idempotency = fp(
  async (app) => {
    app.decorateRequest('idempotency', undefined);
    app.addHook('onRequest', (request, _reply, done) => {
      const { method, headers, is404, routeOptions } = request;
      if (headers['idempotency-key'] === undefined || is404 || routeOptions.config.idempotent) return done();
      const route = `${method} ${routeOptions.url}`;
      done(new AppError('bad_request', `${route} does not take an Idempotency-Key: leave the header out`));
    });
    app.addHook('onRoute', (route) => {
      if (route.config?.idempotent) route.preHandler = [readKey, ...[route.preHandler ?? []].flat()];
    });
  },
  { name: 'idempotency' },
);

const readKey: preHandlerHookHandler = (request, _reply, done) => {
  const key = request.headers['idempotency-key'];
  if (key === undefined || !request.principal) return done();
  if (typeof key !== 'string' || !IDEMPOTENCY_KEY.test(key)) {
    return done(new AppError('bad_request', 'Idempotency-Key takes 1 to 255 printable ASCII characters'));
  }
  const { tenant, keyId } = request.principal;
  const sealed = request.routeOptions.config.idempotent === 'sealed';
  const fingerprint = createHash('sha256')
    .update(`${request.method} ${request.url}\n${JSON.stringify(request.body)}`)
    // Another key of the tenant may not have the right to what this response holds.
    .update(sealed ? `\n${keyId}` : '')
    .digest();
  request.idempotency = { tenant, key, fingerprint, sealed };
  done();
};
