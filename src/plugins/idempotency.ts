import { createHash } from 'node:crypto';
import type { preHandlerHookHandler } from 'fastify';
import fp from 'fastify-plugin';
import { AppError } from '../errors.ts';
import type { IdempotentRequest } from '../stores/idempotency.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Set on routes with `config.idempotent` when the client sent an `Idempotency-Key`. */
    idempotency: IdempotentRequest | undefined;
  }
  interface FastifyContextConfig {
    idempotent?: boolean;
  }
}

/** Printable ASCII; long enough for any UUID, short enough for an index. */
const KEY = /^[\x21-\x7e]{1,255}$/;

/** Reads `Idempotency-Key` and takes the fingerprint of what is asked; the store does the rest. */
export const idempotency = fp(
  async (app) => {
    app.decorateRequest('idempotency', undefined);
    app.addHook('onRoute', (route) => {
      if (route.config?.idempotent) route.preHandler = [readKey, ...[route.preHandler ?? []].flat()];
    });
  },
  { name: 'idempotency' },
);

const readKey: preHandlerHookHandler = (request, _reply, done) => {
  const key = request.headers['idempotency-key'];
  if (key === undefined || !request.principal) return done();
  if (typeof key !== 'string' || !KEY.test(key)) {
    return done(new AppError('bad_request', 'Idempotency-Key takes 1 to 255 printable ASCII characters'));
  }
  const fingerprint = createHash('sha256')
    .update(`${request.method} ${request.url}\n${JSON.stringify(request.body)}`)
    .digest();
  request.idempotency = { tenant: request.principal.tenant, key, fingerprint };
  done();
};
