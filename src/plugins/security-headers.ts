import cors from '@fastify/cors';
import fp from 'fastify-plugin';
import type { IncomingHttpHeaders } from 'node:http';

/**
 * Headers that matter to an API, few on purpose: each costs time on every answer. Strict-Transport-Security is
 * not among them: it belongs to whoever ends TLS, which is nginx or the ingress, and must be sent once.
 */
export const SECURITY_HEADERS = {
  'content-security-policy': "default-src 'none';frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
};

/**
 * Security headers on every answer. Without CORS_ORIGINS no browser page of another origin may read
 * anything.
 */
export const securityHeaders = fp<{ corsOrigins: string[] }>(
  async (app, { corsOrigins }) => {
    app.addHook('onRequest', (_request, reply, done) => {
      reply.headers(SECURITY_HEADERS);
      done();
    });
    if (corsOrigins.length === 0) return;
    // The CORS plugin takes every OPTIONS for a preflight, and answers text to what is none.
    app.addHook('onRequest', (request, reply, done) => {
      if (request.method === 'OPTIONS' && !isPreflight(request.headers)) reply.callNotFound();
      else done();
    });
    await app.register(cors, {
      origin: corsOrigins,
      methods: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'],
      allowedHeaders: [
        'authorization',
        'x-api-key',
        'content-type',
        'idempotency-key',
        'if-match',
        'if-none-match',
      ],
      exposedHeaders: [
        'etag',
        'location',
        'x-request-id',
        'ratelimit',
        'ratelimit-policy',
        'retry-after',
        'idempotency-replayed',
      ],
      maxAge: 600,
    });
  },
  { name: 'security-headers' },
);

function isPreflight(headers: IncomingHttpHeaders): boolean {
  return headers.origin !== undefined && headers['access-control-request-method'] !== undefined;
}
