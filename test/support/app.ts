import { Writable } from 'node:stream';
import type { FastifyInstance, InjectOptions } from 'fastify';
import type { Test } from 'tap';
import { buildApp, type AppOptions } from '../../src/app.ts';
import { loadConfig, type Config } from '../../src/config/config.ts';
import { buildInternalApp } from '../../src/internal-app.ts';
import { createLifecycle, type Lifecycle } from '../../src/http/shutdown.ts';
import { createLog } from '../../src/observability/logging.ts';
import { createMetrics, type Metrics } from '../../src/observability/metrics.ts';
import { openServices, type Services } from '../../src/dependencies.ts';
import type { CreateApiKey } from '../../src/auth/administration.ts';
import * as canary from './canary.ts';
import { createDatabase } from './postgres.ts';
import { readSeries } from './series.ts';

export interface TestApp {
  app: FastifyInstance;
  internal: FastifyInstance;
  config: Config;
  services: Services;
  metrics: Metrics;
  lifecycle: Lifecycle;
  /** Every line logged so far, parsed. */
  logs: Record<string, unknown>[];
  /** Makes a key; tenant `acme` and every scope unless told otherwise. */
  issueKey(wanted?: Partial<CreateApiKey>): Promise<{ id: string; token: string }>;
  /** One request; `token` goes out as a Bearer key, an object body as JSON. */
  request(method: InjectOptions['method'], url: string, options?: RequestOptions): Promise<TestResponse>;
  /** Value of one series by its exact name and labels, as Prometheus would read it; 0 when it is not there. */
  metric(series: string): Promise<number>;
}

export interface RequestOptions {
  token?: string;
  body?: unknown;
  headers?: Record<string, string>;
  remoteAddress?: string;
}

export interface TestResponse {
  status: number;
  headers: Record<string, string | string[] | number | undefined>;
  text: string;
  json: any;
}

/**
 * The service as service.ts builds it, on a database of its own, closed when `t` ends. `env` is laid
 * over defaults that suit tests (a limit that is out of the way); without REDIS_URL in it there is
 * no Redis. `routes` adds routes and hooks that only a test needs.
 */
export async function startTestApp(
  t: Test,
  env: Record<string, string> = {},
  { routes, ...options }: Pick<AppOptions, 'receive'> & { routes?: (app: FastifyInstance) => void } = {},
): Promise<TestApp> {
  const variables = {
    DATABASE_URL: env.DATABASE_URL ?? (await createDatabase(t)),
    API_HOST: '127.0.0.1',
    API_PORT: '0',
    METRICS_PORT: '0',
    RATE_LIMIT_PER_MINUTE: '1000000',
    CONNECTION_POOL_SIZE: '5',
    EXPECTED_REPLICAS: '1',
    // A busy machine is not what most tests are about.
    MAX_EVENT_LOOP_DELAY_MS: '0',
    API_KEY_SECRET: 'only-for-tests-8b1f0c6d2e9a4753-51f6',
    ...env,
  };
  const { config } = loadConfig(variables);
  const secrets = new Set(canary.secretsIn(variables));
  const errorBodies: string[] = [];
  const logs: Record<string, unknown>[] = [];
  const log = createLog(config.log, lineCollector(logs));
  const metrics = createMetrics('test');
  const lifecycle = createLifecycle();
  const services = openServices(config, { log, metrics, usageSource: process });
  const app = await buildApp({
    config,
    log,
    metrics,
    lifecycle,
    services,
    version: '0.0.0-test',
    ...options,
  });
  routes?.(app);
  const internal = buildInternalApp({ log, metrics, lifecycle, services, version: '0.0.0-test' });
  await Promise.all([app.ready(), internal.ready()]);
  t.teardown(async () => {
    app.server.closeAllConnections();
    await Promise.all([app.close(), internal.close()]);
    for (const { close } of services.closers) await close();
    canary.refuseLeaks(secrets, {
      log: JSON.stringify(logs),
      errors: errorBodies.join('\n'),
      metrics: await metrics.registry.metrics(),
    });
  });

  return {
    app,
    internal,
    config,
    services,
    metrics,
    lifecycle,
    logs,
    async issueKey(wanted = {}) {
      const { key, token } = await services.admin.create(
        { tenant: 'acme', name: 'test', scopes: ['*'], limitPerMinute: null, expiresAt: null, ...wanted },
        { actor: 'test', requestId: null, ip: null },
      );
      for (const secret of canary.secretsOf(token)) secrets.add(secret);
      return { id: key.id, token };
    },
    async request(method, url, { token, body, headers, remoteAddress } = {}) {
      const sent = { ...(token === undefined ? {} : { authorization: `Bearer ${token}` }), ...headers };
      for (const [name, value] of Object.entries(sent)) {
        if (/^(authorization|x-api-key|cookie)$/i.test(name))
          for (const secret of canary.secretsOf(value)) secrets.add(secret);
      }
      const response = await app.inject({
        method: method ?? 'GET',
        url,
        headers: sent,
        ...(body === undefined ? {} : { payload: body as object }),
        ...(remoteAddress === undefined ? {} : { remoteAddress }),
      });
      const text = response.body;
      if (response.statusCode >= 400) errorBodies.push(text);
      const isJson = /json/.test(String(response.headers['content-type']));
      return {
        status: response.statusCode,
        headers: response.headers,
        text,
        // Answers to HEAD and 304 name the type of a body that they do not have.
        json: isJson && text !== '' ? JSON.parse(text) : undefined,
      };
    },
    async metric(series) {
      return readSeries((await internal.inject('/metrics')).body, series);
    },
  };
}

export function lineCollector(lines: Record<string, unknown>[]): Writable {
  return new Writable({
    write(chunk: Buffer, _encoding, done) {
      for (const line of chunk.toString().split('\n')) if (line) lines.push(JSON.parse(line));
      done();
    },
  });
}

// example:start
/** A body for POST /v1/orders that is valid; the reference is a new one each time. */
export function newOrder(changes: Record<string, unknown> = {}) {
  references += 1;
  return {
    reference: `ref-${canary.CANARY}-${references}`,
    currency: 'EUR',
    items: [{ sku: 'BOOK-1', quantity: 2, unitPriceMinor: 1250 }],
    ...changes,
  };
}

let references = 0;
// example:end
