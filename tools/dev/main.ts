import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadConfig } from '../../src/config/config.ts';
import { shutdownBudgetMs } from '../../src/http/shutdown.ts';
import { ensureDatabase } from './database.ts';
import { ensureKey } from './key.ts';
import { superviseService, type Listening } from './service.ts';
import { openDevState } from './state.ts';
import { openEmbeddedPostgres } from './embedded-postgres.ts';
import { isEntry, loadDotenv } from '../../src/cli/environment.ts';
import { migrateUp } from '../../src/cli/migrate.ts';

type Say = (line: string) => void;

// What a developer wants where production wants something else; the environment and .env have precedence.
const DEFAULTS = {
  API_HOST: '127.0.0.1',
  API_PORT: '8000',
  METRICS_PORT: '9090',
  API_KEY_ENVIRONMENT: 'dev',
  LOG_FORMAT: 'pretty',
  DRAIN_DELAY_SECONDS: '0',
  SHUTDOWN_TIMEOUT_SECONDS: '5',
  EXPECTED_REPLICAS: '1',
};

/**
 * `npm run dev`: the service with a migrated database and a key that works, started anew when src changes.
 * Without DATABASE_URL it brings its own Postgres. Reads .env. Two variables of its own: DEV_WATCH=false
 * switches the restarts off, DEV_STATE_DIR is where data, key and secrets are kept (.hardpoint).
 * @returns the exit code, after everything it started has ended; `stopped` makes it end
 */
export async function runDev(directory: string, stopped: AbortSignal, say: Say): Promise<number> {
  const stateDir = process.env.DEV_STATE_DIR || join(directory, '.hardpoint');
  const state = openDevState(stateDir);
  try {
    const secrets = state.getSecrets();
    const env = withDefaults({
      ...DEFAULTS,
      API_KEY_SECRET: secrets.keySecret,
      SECRET_KEY: secrets.secretKey,
    });
    if (env.DATABASE_URL || env.DATABASE_URL_FILE) return await runService(env);
    const postgres = await openEmbeddedPostgres({ dataDir: join(stateDir, 'postgres'), say });
    try {
      say(`Postgres: embedded, data in ${postgres.dataDir} (DATABASE_URL chooses another)`);
      return await runService({ ...env, DATABASE_URL: await ensureDatabase(postgres.url, 'hardpoint') });
    } finally {
      await postgres.stop();
    }

    async function runService(complete: NodeJS.ProcessEnv): Promise<number> {
      const { config } = loadConfig(complete);
      const prepare = () => migrateUp({ databaseUrl: config.postgres.migrationUrl, say });
      await prepare();
      const token = await ensureKey(config, secrets.token);
      state.saveSecrets({ ...secrets, token });
      const { DATABASE_URL, API_KEY_SECRET, API_KEY_ENVIRONMENT, REDIS_URL } = complete;
      state.publish({ DATABASE_URL, API_KEY_SECRET, API_KEY_ENVIRONMENT, REDIS_URL });
      return superviseService({
        directory,
        env: complete,
        watched: complete.DEV_WATCH !== 'false',
        stopBudgetMs: shutdownBudgetMs(config.lifecycle) + 1000,
        stopped,
        say,
        prepare,
        onFirstListening: (listening) => announce(listening, token, say),
      });
    }
  } finally {
    state.close();
  }
}

function announce({ url, metricsUrl }: Listening, token: string, say: Say): void {
  say(`API: ${url}, docs: ${url}/docs, metrics: ${metricsUrl ? `${metricsUrl}/metrics` : 'off'}`);
  say(`API key: ${token}`);
  say(`curl -H "Authorization: Bearer ${token}" ${url}/v1/api-keys`);
}

/** The environment, with these where it says nothing. */
function withDefaults(defaults: Record<string, string>): NodeJS.ProcessEnv {
  const { env } = process;
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
  // The reader of our lines may be gone before we are.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);
  return stopping.signal;
}

if (isEntry(import.meta.url)) {
  const directory = fileURLToPath(new URL('../../', import.meta.url));
  try {
    loadDotenv(directory, process.env);
    process.exitCode = await runDev(directory, stopOnSignals(), console.log);
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exitCode = 1;
  }
}
