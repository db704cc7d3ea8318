import cors from '@fastify/cors';
import helmet, { type FastifyHelmetOptions } from '@fastify/helmet';
import { fastify } from 'fastify';
import fp from 'fastify-plugin';
import type { IncomingHttpHeaders } from 'node:http';

/** Few on purpose: each header costs time on every answer, and most of helmet's are for pages. */
const HELMET: FastifyHelmetOptions = {
  contentSecurityPolicy: {
    useDefaults: false,
    directives: { 'default-src': ["'none'"], 'frame-ancestors': ["'none'"] },
  },
  xFrameOptions: { action: 'deny' },
  referrerPolicy: { policy: 'no-referrer' },
  // Belongs to whoever ends TLS, which is nginx or the ingress, and must be sent once.
  strictTransportSecurity: false,
  crossOriginEmbedderPolicy: false,
  crossOriginOpenerPolicy: false,
  crossOriginResourcePolicy: false,
  originAgentCluster: false,
  xDnsPrefetchControl: false,
  xDownloadOptions: false,
  xPermittedCrossDomainPolicies: false,
  xXssProtection: false,
};

/**
 * Asks helmet once what it sets. As a hook it works that out anew for every answer and sets it on the raw
 * response, which takes Node's slow way of merging header lists: a fifth of the cost of a cached read.
 */
export async function readSecurityHeaders(): Promise<Record<string, string>> {
  const probe = fastify();
  probe.get('/without', () => '');
  await probe.register(async (scope) => {
    await scope.register(helmet, HELMET);
    scope.get('/with', () => '');
  });
  const [without, given] = await Promise.all([probe.inject('/without'), probe.inject('/with')]);
  await probe.close();
  const added = Object.entries(given.headers).filter(([name]) => without.headers[name] === undefined);
  return Object.fromEntries(added.map(([name, value]) => [name, String(value)]));
}

export interface SecurityHeadersOptions {
  headers: Record<string, string>;
  corsOrigins: string[];
  /** Request headers that pages may send, beyond those that the service reads. */
  corsAllowedHeaders: string[];
}

/**
 * Security headers on every answer. Without CORS_ORIGINS no browser page of another origin may read
 * anything.
 */
export const securityHeaders = fp<SecurityHeadersOptions>(
  async (app, { headers, corsOrigins, corsAllowedHeaders }) => {
    app.addHook('onRequest', (_request, reply, done) => {
      reply.headers(headers);
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
