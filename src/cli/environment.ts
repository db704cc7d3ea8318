import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseEnv } from 'node:util';

/** Where a running `npm run dev` says what a command in another terminal needs to reach the same service. */
export const RUNNING_FILE = 'running.json';

/**
 * The environment of a command: the process's own, else `.env` of the folder that it is started in, else that of
 * the service that `npm run dev` runs from there. Production has neither file.
 */
export function commandEnvironment(): NodeJS.ProcessEnv {
  const directory = process.cwd();
  const { env } = process;
  loadDotenv(directory, env);
  if (env.DATABASE_URL || env.DATABASE_URL_FILE) return env;
  const running = join(env.DEV_STATE_DIR || join(directory, '.hardpoint'), RUNNING_FILE);
  if (!existsSync(running)) return env;
  console.error('No DATABASE_URL: using the database of the running "npm run dev"');
  const settings: Record<string, string> = JSON.parse(readFileSync(running, 'utf8'));
  return { ...env, ...settings };
}

/**
 * Adds to `env` what `.env` in this folder sets and `env` does not. process.loadEnvFile loses the first line behind
 * the byte order mark that editors on Windows write.
 */
export function loadDotenv(directory: string, env: NodeJS.ProcessEnv): void {
  const file = join(directory, '.env');
  if (!existsSync(file)) return;
  const text = readFileSync(file, 'utf8').replace(/^\uFEFF/, '');
  if (/\0|\uFFFD/.test(text)) {
    throw new Error(`${file} is not UTF-8 text: save it as UTF-8 (not UTF-16), without NUL characters`);
  }
  for (const [name, value] of Object.entries(parseEnv(text))) env[name] ??= value;
}

/**
 * Whether this module is the program that was started. Compared as real paths: through a symbolic link, or
 * without its ending, a command would otherwise do nothing and exit 0.
 */
export function isEntry(moduleUrl: string): boolean {
  const entry = process.argv[1] ?? '';
  const started = [entry, `${entry}.js`].find((path) => existsSync(path));
  return started !== undefined && realpathSync(started) === fileURLToPath(moduleUrl);
}
