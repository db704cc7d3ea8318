import cors from '@fastify/cors';
import helmet from '@fastify/helmet';
import fp from 'fastify-plugin';

/**
 * Headers that matter to an API, few on purpose: each costs time on every answer. HSTS belongs to
 * whoever ends TLS, which is nginx or the ingress, and must be sent once. Without CORS_ORIGINS no
 * browser page of another origin may read anything.
 */
export const securityHeaders = fp<{ corsOrigins: string[] }>(
  async (app, { corsOrigins }) => {
    await app.register(helmet, {
      contentSecurityPolicy: {
        useDefaults: false,
        directives: { 'default-src': ["'none'"], 'frame-ancestors': ["'none'"] },
      },
      xFrameOptions: { action: 'deny' },
      referrerPolicy: { policy: 'no-referrer' },
      strictTransportSecurity: false,
      crossOriginEmbedderPolicy: false,
      crossOriginOpenerPolicy: false,
      crossOriginResourcePolicy: false,
      originAgentCluster: false,
      xDnsPrefetchControl: false,
      xDownloadOptions: false,
      xPermittedCrossDomainPolicies: false,
      xXssProtection: false,
    });
    if (corsOrigins.length === 0) return;
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
