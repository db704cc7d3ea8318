import { existsSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { shutdownBudgetMs } from '../lifecycle.ts';
import { ensureDatabase } from '../stores/database.ts';
import { startService, type Listening } from './dev-service.ts';
import { openDevState } from './dev-state.ts';
import { watchFolder } from './dev-watch.ts';
import { openEmbeddedPostgres } from './embedded-postgres.ts';
import { migrateUp } from './migrate.ts';
import { readMigrationUrl } from './migration-url.ts';

type Say = (line: string) => void;
type DevState = ReturnType<typeof openDevState>;

// What a developer wants where production wants something else; the environment and .env have precedence.
const DEFAULTS = {
  API_HOST: '127.0.0.1',
  API_PORT: '8000',
  METRICS_PORT: '9090',
  API_KEY_ENVIRONMENT: 'dev',
  LOG_FORMAT: 'pretty',
  DRAIN_DELAY_SECONDS: '0',
  SHUTDOWN_TIMEOUT_SECONDS: '5',
};

/**
 * `npm run dev`: the service with a migrated database and a key that works, restarted when src changes.
 * Without DATABASE_URL it brings its own Postgres. Reads .env. Two variables of its own: DEV_WATCH=false
 * switches the restarts off, DEV_STATE_DIR is where data, key and secrets are kept (.hardpoint).
 * @returns the exit code, after everything it started has ended; `stopped` aborts it
 */
export async function runDev(directory: string, stopped: AbortSignal, say: Say): Promise<number> {
  const env = withDefaults(process.env, DEFAULTS);
  const stateDir = env.DEV_STATE_DIR || join(directory, '.hardpoint');
  const state = openDevState(stateDir);
  try {
    if (env.DATABASE_URL || env.DATABASE_URL_FILE) return await runOnDatabase(env);
    const postgres = await openEmbeddedPostgres({ dataDir: join(stateDir, 'postgres'), say });
    try {
      say(`Postgres: embedded, data in ${join(stateDir, 'postgres')} (DATABASE_URL chooses another)`);
      return await runOnDatabase({ ...env, DATABASE_URL: await ensureDatabase(postgres.url, 'hardpoint') });
    } finally {
      await postgres.stop();
    }
  } finally {
    state.close();
  }

  async function runOnDatabase(complete: NodeJS.ProcessEnv): Promise<number> {
    const { applied } = await migrateUp({ databaseUrl: readMigrationUrl(complete), say });
    if (applied.length > 0) say(`Migrations: ${applied.length} applied`);
    return superviseService({ directory, env: complete, state, stopped, say });
  }
}

interface Supervision {
  directory: string;
  env: NodeJS.ProcessEnv;
  state: DevState;
  stopped: AbortSignal;
  say: Say;
}

async function superviseService({ directory, env, state, stopped, say }: Supervision): Promise<number> {
  const stop = new Promise<'stop'>((resolve) => {
    if (stopped.aborted) resolve('stop');
    stopped.addEventListener('abort', () => resolve('stop'), { once: true });
  });
  const watch = env.DEV_WATCH === 'false' ? undefined : watchFolder(join(directory, 'src'));
  const never = new Promise<never>(() => undefined);
  const environment = env.API_KEY_ENVIRONMENT ?? '';
  let secrets = state.getSecrets(environment);
  let announced = false;
  let keyTries = 0;
  try {
    for (;;) {
      const { token, keySecret, secretKey } = secrets;
      const service = startService(
        directory,
        withDefaults(
          // The service itself stores the key, so it is there in whichever database it meets.
          { ...env, API_KEYS: [env.API_KEYS, `dev:${token}`].filter(Boolean).join(',') },
          { API_KEY_SECRET: keySecret, SECRET_KEY: secretKey },
        ),
      );
      const listening = await Promise.race([service.listening, stop]);
      if (listening === undefined && !announced) return await service.ended;
      if (typeof listening === 'object' && !announced) {
        if (keyTries++ === 0 && (await isRefused(listening, token))) {
          secrets = state.renewToken(secrets, environment);
          await service.stop(budgetOf(env));
          continue;
        }
        announce(listening, token, say);
        announced = true;
      }
      const changed = watch?.next() ?? never;
      let event = await Promise.race([stop, changed, service.ended]);
      if (typeof event === 'number') {
        if (!watch) return event;
        say(`The service ended with ${event}. It starts again when a file below src changes.`);
        event = await Promise.race([stop, changed]);
      }
      if (event === 'stop') say('Stopping…');
      await service.stop(budgetOf(env));
      if (event === 'stop') return 0;
      say(`${event.file} changed: starting again…`);
    }
  } finally {
    watch?.close();
  }
}

/** Revoked meanwhile, or made under another API_KEY_SECRET. */
async function isRefused(listening: Listening, token: string): Promise<boolean> {
  const response = await fetch(`${listening.url}/v1/orders?limit=1`, {
    headers: { authorization: `Bearer ${token}` },
  });
  await response.body?.cancel();
  return response.status === 401;
}

function announce(listening: Listening, token: string, say: Say): void {
  const metrics = listening.metricsUrl ? `, metrics: ${listening.metricsUrl}` : '';
  say(`API: ${listening.url}, docs: ${listening.url}/docs${metrics}`);
  say(`API key: ${token}`);
  say(`curl -H "Authorization: Bearer ${token}" ${listening.url}/v1/orders`);
}

/** How long the service may take to end, and a second for the process itself. */
function budgetOf(env: NodeJS.ProcessEnv): number {
  const drainDelayMs = Number(env.DRAIN_DELAY_SECONDS) * 1000;
  const shutdownTimeoutMs = Number(env.SHUTDOWN_TIMEOUT_SECONDS) * 1000;
  return shutdownBudgetMs({ drainDelayMs, shutdownTimeoutMs }) + 1000;
}

function withDefaults(env: NodeJS.ProcessEnv, defaults: Record<string, string>): NodeJS.ProcessEnv {
  const missing = Object.entries(defaults).filter(([name]) => !env[name] && !env[`${name}_FILE`]);
  return { ...env, ...Object.fromEntries(missing) };
}

/** Aborts on the signals that mean "end", however often they come: a terminal and npm send the same one twice. */
function stopOnSignals(): AbortSignal {
  const stopping = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => stopping.abort());
  // A signal to npm alone ends the shell between npm and us, and never reaches us.
  if (process.env.npm_lifecycle_event) {
    const parent = process.ppid;
    setInterval(() => process.ppid !== parent && stopping.abort(), 250).unref();
  }
  // Who read our lines may be gone before we are.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);
  return stopping.signal;
}

const entry = process.argv[1] ?? '';
if (existsSync(entry) && realpathSync(entry) === fileURLToPath(import.meta.url)) {
  const directory = fileURLToPath(new URL('../../', import.meta.url));
  const dotenv = join(directory, '.env');
  if (existsSync(dotenv)) process.loadEnvFile(dotenv);
  try {
    process.exitCode = await runDev(directory, stopOnSignals(), console.log);
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  }
}
