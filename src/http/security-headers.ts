import cors from '@fastify/cors';
import fp from 'fastify-plugin';
import type { IncomingHttpHeaders } from 'node:http';

/**
 * The part of helmet's headers that an API needs; a test compares them with helmet's own. The rest is for pages, and each
 * header costs time on every response: as a hook helmet takes a fifth of the cost of a cached read. HSTS belongs to
 * whoever ends TLS, which is nginx or the ingress.
 */
export const SECURITY_HEADERS = {
  'content-security-policy': "default-src 'none';frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
};

export interface SecurityHeadersOptions {
  corsOrigins: string[];
  /** Request headers that pages may send, beyond those that the service reads. */
  corsAllowedHeaders: string[];
}

/**
 * Security headers on every response. Without CORS_ORIGINS no browser page of another origin may read
 * anything.
 */
export const securityHeaders = fp<SecurityHeadersOptions>(
  async (app, { corsOrigins, corsAllowedHeaders }) => {
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
        'x-request-id',
        'traceparent',
        'tracestate',
        'baggage',
        ...corsAllowedHeaders,
      ],
      exposedHeaders: [
        'etag',
        'location',
        'x-request-id',
        'ratelimit',
        'ratelimit-policy',
        'retry-after',
        'idempotency-replayed',
        'propagation-delay',
      ],
      maxAge: 600,
    });
  },
  { name: 'security-headers' },
);

function isPreflight(headers: IncomingHttpHeaders): boolean {
  return headers.origin !== undefined && headers['access-control-request-method'] !== undefined;
}
