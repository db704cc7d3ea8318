import { format } from 'node:util';
import closeWithGrace from 'close-with-grace';
import { buildApp } from './app.ts';
import { ConfigError, loadConfig, type Config } from './config/config.ts';
import { buildInternalApp } from './internal-app.ts';
import { createLifecycle, shutDown, shutdownBudgetMs } from './http/shutdown.ts';
import { LogOutput } from './observability/log-output.ts';
import { createLog } from './observability/logging.ts';
import { createMetrics } from './observability/metrics.ts';
import { openServices } from './dependencies.ts';
import { OPERATOR_TENANT } from './auth/audit-queue.ts';
import type { NewAuditEvent } from './auth/audit-log.ts';
import { seedKeys } from './auth/seed-keys.ts';
import { readVersion } from './lib/version.ts';

/** Opens everything, listens, and closes it all in reverse order when the process is told to end. */
async function start(): Promise<void> {
  const { config, warnings } = loadConfig(process.env);
  const version = readVersion();
  const metrics = createMetrics(version);
  const output = new LogOutput(process.stdout, {
    onDropped: () => metrics.logLinesDropped.inc(),
    onRecovered: (lines, cause) => log.warn({ lines, cause }, 'log lines were dropped: stdout took no more'),
  });
  const log = createLog(config.log, output);
  process.once('exit', () => output.end());
  // Libraries print some warnings as text, which nobody could read among lines of JSON.
  console.warn = (...args) => log.warn(format(...args));
  console.error = (...args) => log.error(format(...args));
  for (const warning of warnings) log.warn(warning);
  const lifecycle = createLifecycle();
  // Loaded only when it is wanted: dozens of modules.
  const tracing =
    config.tracing &&
    (await (await import('./observability/tracing.ts')).startTracing(config.tracing, { log, version }));

  const services = openServices(config, { log, metrics, usageSource: process });
  const redisReady = services.redisReady();
  const app = await buildApp({ config, log, metrics, lifecycle, services, version, tracing });
  const internal = buildInternalApp({ log, metrics, lifecycle, services, version });

  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, stay);
  const { close } = closeWithGrace(
    {
      delay: shutdownBudgetMs(config.lifecycle),
      logger: false,
      onTimeout: () => log.fatal('shutdown took too long'),
      onSecondSignal: (signal) => log.fatal({ signal }, 'told to stop again: not waiting any longer'),
      onSecondError: (error) => log.fatal({ error }, 'uncaught error while draining'),
    },
    async ({ err, signal }) => {
      if (err) log.fatal({ error: err }, 'uncaught error: draining');
      else log.info({ signal }, 'told to stop');
      if (signal && process.env.npm_lifecycle_event) ignoreRepeat(signal);
      const finished = await shutDown({
        ...config.lifecycle,
        lifecycle,
        log,
        server: app.server,
        closeListeners: async () => {
          await app.close();
          await internal.close();
        },
        cutConnections: () => {
          for (const { server } of [app, internal]) server.closeAllConnections();
        },
        closers: [...services.closers, ...(tracing ? [{ name: 'tracing', close: tracing.close }] : [])],
      });
      if (!finished) process.exit(1);
    },
  );
  // The parent that gave us a channel is gone: nobody else will stop this process.
  process.once('disconnect', () => {
    if (!lifecycle.draining) close();
  });

  if (config.redis.url === undefined)
    log.warn('no REDIS_URL: limits and cache are kept in this process only');
  await redisReady;
  const { host, port, metricsEnabled, metricsHost, metricsPort } = config.http;
  const url = await app.listen({ host, port });
  const metricsUrl = metricsEnabled
    ? await internal.listen({ host: metricsHost, port: metricsPort })
    : undefined;
  log.info({ version, url, metrics_url: metricsUrl, redis: services.health.redisState() }, 'listening');
  services.auth.auditQueue.note(describeStart(config, version));
  process.send?.({ type: 'listening', url, metricsUrl });
  void seedKeys(config.auth.bootstrapKeys, services.admin, log);
}

/** Below npm a Ctrl-C comes twice: from the terminal, and from npm, which passes it on. */
function ignoreRepeat(signal: NodeJS.Signals): void {
  const listeners = process.listeners(signal).filter((listener) => listener !== stay);
  for (const listener of listeners) process.off(signal, listener);
  setTimeout(() => {
    for (const listener of listeners) process.on(signal, listener);
  }, REPEAT_MS).unref();
}

/** A signal without a listener, if only between two of them, would end the process at once. */
function stay(): void {}

const REPEAT_MS = 1_000;

/** The settings that decide who may do what, and nothing secret. */
function describeStart({ http, auth, rateLimit, cache, log }: Config, version: string): NewAuditEvent {
  const { required, keyEnvironment, failuresPerMinute } = auth;
  const settings = { http, auth: { required, keyEnvironment, failuresPerMinute }, rateLimit, cache, log };
  return {
    tenant: OPERATOR_TENANT,
    actor: 'service',
    action: 'service.started',
    object: 'settings',
    outcome: 'success',
    requestId: null,
    ip: null,
    detail: { version, settings },
  };
}

function describeFailure(error: unknown): string {
  if (error instanceof ConfigError) return error.message;
  const { syscall, code, message, stack } = error as NodeJS.ErrnoException;
  if (syscall !== 'listen') return String(stack ?? error);
  const hint =
    code === 'EADDRINUSE' ? '; end the process that listens there, or set API_PORT and METRICS_PORT' : '';
  return `${message}${hint}`;
}

// What cannot start says why on stderr, and ends with 1.
await start().catch((error: unknown) => {
  process.stderr.write(`${describeFailure(error)}\n`);
  process.exit(1);
});
