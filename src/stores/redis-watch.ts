import type { Redis } from 'ioredis';
import type { Logger } from 'pino';
import type { Metrics } from '../metrics.ts';
import { explainFailure, findServerProblems } from './redis-problems.ts';

const REPEAT_AFTER_MS = 60_000;

/**
 * Keeps `redis_up` true to the state and tells each change of state, each new reason that a person can
 * mend, and once a minute that it lasts: an outage is a line a minute, not one for every attempt.
 */
export function watchConnection(
  client: Redis,
  role: 'limits' | 'cache',
  log: Logger,
  metrics: Metrics,
): { stop(): void } {
  let stopped = false;
  let told = { reason: '', atMs: -Infinity };

  client.on('ready', () => {
    metrics.redisUp.set({ role }, 1);
    told = { reason: '', atMs: -Infinity };
    log.info('Redis is ready');
    void tellServerProblems(client, role, log);
  });

  client.on('close', () => {
    metrics.redisUp.set({ role }, 0);
    if (!stopped) tell('the connection was closed or refused');
  });

  // Without this listener ioredis prints every error, unstructured, to stderr.
  client.on('error', (error: Error) => {
    if (stopped) return;
    tell(
      withoutPassword(error.message || String((error as NodeJS.ErrnoException).code), client),
      explainFailure(error),
    );
    // ioredis goes on with database 0 when the one asked for does not exist: somebody else's data.
    if (error.message.includes('DB index is out of range')) client.disconnect(true);
  });

  function tell(reason: string, mend?: string): void {
    const repeated = reason === told.reason || (told.reason !== '' && mend === undefined);
    if (repeated && performance.now() - told.atMs < REPEAT_AFTER_MS) return;
    told = { reason, atMs: performance.now() };
    log.warn(
      { reason, ...(mend === undefined ? {} : { mend }) },
      'Redis cannot be used, going on without it',
    );
  }

  return {
    stop() {
      stopped = true;
    },
  };
}

/** A server that answers and is still the wrong one. */
async function tellServerProblems(client: Redis, role: 'limits' | 'cache', log: Logger): Promise<void> {
  try {
    const info = await client.info();
    for (const mend of findServerProblems(info, role))
      log.warn({ mend }, 'Redis is not set up as it should be');
  } catch {
    // Gone again, or INFO is not allowed to this user: the first is told elsewhere, the second is no fault.
  }
  try {
    await client.script('LOAD', 'return 1');
  } catch (error) {
    const { message } = error as Error;
    if (!/NOPERM|unknown command/i.test(message)) return;
    log.warn({ reason: message, mend: explainFailure(error) }, 'Redis is not set up as it should be');
  }
}

function withoutPassword(text: string, client: Redis): string {
  const { password } = client.options;
  return password ? text.replaceAll(password, '***') : text;
}
