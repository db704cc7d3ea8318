import { LogController, fastify, type FastifyInstance, type FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { createRequestLog } from './observability/logging.ts';
import { clientAddress, createTrust } from './http/client-address.ts';
import type { Config } from './config/config.ts';
import { apiKeys } from './features/api-keys/routes.ts';
import { orders } from './features/orders/routes.ts';
import { status } from './features/status/routes.ts';
import type { Lifecycle } from './http/shutdown.ts';
import type { Metrics } from './observability/metrics.ts';
import { auth } from './auth/plugin.ts';
import { errorHandler } from './http/problems.ts';
import { health } from './http/health.ts';
import { idempotency } from './idempotency/plugin.ts';
import { loadShedding } from './http/load-shedding.ts';
import { collectRoutes, notFound } from './http/not-found.ts';
import { accessLog, createRequestRecord } from './http/access-log.ts';
import { openApi } from './openapi/plugin.ts';
import { rateLimit } from './rate-limit/plugin.ts';
import { requestChecks } from './http/request-checks.ts';
import { requestTimeout } from './http/request-timeout.ts';
import { securityHeaders } from './http/security-headers.ts';
import { createClientErrors, handleConnectAndExpect } from './http/client-errors.ts';
import { validation } from './http/validation.ts';
import { createRequestIds } from './http/request-id.ts';
import type { Services } from './dependencies.ts';
import type { Tracing } from './observability/tracing.ts';

export interface AppOptions {
  config: Config;
  log: Logger;
  metrics: Metrics;
  lifecycle: Lifecycle;
  services: Services;
  version: string;
  /** Undefined unless OTEL_EXPORTER_OTLP_ENDPOINT is set. */
  tracing?: Tracing | undefined;
  /** How long a client may take for its headers and for its whole request, in ms. */
  receive?: { headersTimeoutMs: number; requestTimeoutMs: number };
}

/** The largest request line and headers, in bytes; more is 431. */
const MAX_HEADER_BYTES = 16 * 1024;
/** Longer than the keep-alive of nginx's upstream (60 s): the side that reuses must be the one that closes. */
const KEEP_ALIVE_TIMEOUT_MS = 72_000;
const RECEIVE = { headersTimeoutMs: 10_000, requestTimeoutMs: 30_000 };

/** The whole way of a request, in the order in which it runs. */
export async function buildApp(options: AppOptions): Promise<FastifyInstance> {
  const { config, log, metrics, lifecycle, services, version } = options;
  const { headersTimeoutMs, requestTimeoutMs } = options.receive ?? RECEIVE;
  const isTrusted = createTrust(config.http.trustedProxies);
  const requestIds = createRequestIds(isTrusted);
  const record = createRequestRecord({ log, metrics, slowRequestMs: config.log.slowRequestMs });
  const clientErrors = createClientErrors({ newRequestId: requestIds.next, record, metrics });

  const app = fastify({
    // Node looks for late requests every 30 s by default, whatever the timeouts say.
    http: {
      connectionsCheckingInterval: 1_000,
      headersTimeout: headersTimeoutMs,
      maxHeaderSize: MAX_HEADER_BYTES,
      // request-checks asks for it, and answers with a problem.
      requireHostHeader: false,
    },
    requestTimeout: requestTimeoutMs,
    connectionTimeout: config.http.requestTimeoutMs + requestTimeoutMs,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    bodyLimit: config.http.bodyLimitBytes,
    trustProxy: isTrusted,
    genReqId: (request) => requestIds.of(request),
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'request_id' }),
    childLoggerFactory: (_parent, bindings, _options, request) => createRequestLog(log, bindings, request),
    // While draining every route goes on; `lifecycle` says when that ends.
    return503OnClosing: false,
    routerOptions: { maxParamLength: 200 },
    clientErrorHandler: clientErrors.handleSocketError,
    frameworkErrors: clientErrors.handleRouterError,
  });

  // Not as an option: Fastify would listen for the end of every response to log it, as `accessLog` does anyway.
  app.log = log;
  handleConnectAndExpect(app.server, clientErrors.handleSocketError);

  const routes = collectRoutes(app);
  app.decorateRequest('principal', null);
  app.removeContentTypeParser('text/plain');

  await app.register(errorHandler, { metrics });
  await app.register(validation);
  await app.register(accessLog, { record, metrics, lifecycle });
  if (options.tracing) await app.register(options.tracing.traceRequests);
  await app.register(requestTimeout, {
    timeoutMs: config.http.requestTimeoutMs,
    lifecycle,
    metrics,
  });
  const { corsOrigins, corsAllowedHeaders } = config.http;
  await app.register(securityHeaders, { corsOrigins, corsAllowedHeaders });
  await app.register(requestChecks, { enforceHttps: config.http.enforceHttps });
  await app.register(notFound, { routes });
  if (config.http.docsEnabled) {
    await app.register(openApi, { title: 'Hardpoint', version });
  }
  await app.register(health, { lifecycle, version, ...services.health });

  await app.register(
    async (v1) => {
      // Fastify's own has the port that some gateways write, and is whatever a proxy says.
      v1.decorateRequest('ip', { getter: clientIp });
      await v1.register(loadShedding, { maxEventLoopDelayMs: config.http.maxEventLoopDelayMs });
      await v1.register(auth, { ...services.auth, metrics });
      if (config.rateLimit.enabled) {
        const { limiter } = services;
        const { anonymous } = services.auth;
        await v1.register(rateLimit, { limiter, metrics, ...config.rateLimit, anonymous });
      }
      await v1.register(idempotency);
      await v1.register(notFound, { routes });
      await v1.register(apiKeys, { ...services, defaultLimit: config.rateLimit.perMinute });
      await v1.register(status, { status: services.status, lifecycle, version });
      await v1.register(orders, { ...services, metrics, maxRows: config.postgres.maxRows });
    },
    { prefix: '/v1' },
  );
  return app;
}

function clientIp(this: FastifyRequest): string {
  return clientAddress(this.ips ?? [this.raw.socket.remoteAddress]);
}
