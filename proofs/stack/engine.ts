// Goes with the example: src/features/orders
import { execFile, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { findFreePort } from '../../tools/dev/free-port.ts';

/** Two builds of one source: a release and the next one. */
export const RELEASES = ['hardpoint:check-1', 'hardpoint:check-2'] as const;
export const REPLICAS = 3;
export const DATABASE = 'hardpoint';

const PROJECT = 'hardpoint-check';
const MAX_OUTPUT_BYTES = 64 * 1024 * 1024;
const run = promisify(execFile);

/** What a user could have running beside it is not touched: names, ports, secrets and certificates are its own. */
export interface Stack {
  /** Where nginx answers. */
  https: string;
  http: string;
  /** The certificate that setup makes lies here. */
  tlsDir: string;
  volume(name: string): string;
  /** What a program of the project prints; its environment leads it to this stack. @throws Error with its stderr */
  run(file: string, ...args: string[]): Promise<string>;
  docker(...args: string[]): Promise<string>;
  compose(...args: string[]): Promise<string>;
  /** From now on, as if it stood in .env. */
  set(settings: Record<string, string>): void;
  /** Brings the service to so many replicas, all healthy. */
  scale(replicas: number): Promise<void>;
  /** One value, asked as the superuser. */
  sql(text: string): Promise<string>;
  /** Ids of the containers that run. */
  replicas(): Promise<string[]>;
  /** Takes it down with its volumes. Never rejects. */
  close(): Promise<void>;
}

export function findEngine(): boolean {
  return spawnSync('docker', ['info'], { stdio: 'ignore' }).status === 0;
}

/** What an interrupted run has left is taken down first. */
export async function openStack(): Promise<Stack> {
  const [httpPort, httpsPort, grafanaPort] = [
    await findFreePort(),
    await findFreePort(),
    await findFreePort(),
  ];
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-stack-'));
  const settings = {
    HTTP_PORT: `127.0.0.1:${httpPort}`,
    HTTPS_PORT: `127.0.0.1:${httpsPort}`,
    GRAFANA_PORT: String(grafanaPort),
    EDGE_PREFIX: '172.30.251',
    SECRETS_DIR: join(folder, 'secrets'),
    TLS_DIR: join(folder, 'tls'),
    API_IMAGE: RELEASES[0],
    API_REPLICAS: String(REPLICAS),
    DEPLOY_WATCH_SECONDS: '10',
    DEPLOY_MIN_FREE_GB: '1',
    DEPLOY_STATE: join(folder, 'deploy'),
  };
  // In place of the .env of whoever runs this; what is in the environment would win over either.
  const envFile = join(folder, '.env');
  const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}\n`);
  writeFileSync(envFile, lines.join(''), { mode: 0o600 });
  const env = {
    ...process.env,
    ...settings,
    COMPOSE_PROJECT_NAME: PROJECT,
    COMPOSE_ENV_FILES: envFile,
  };
  // Where the engine had to make them they would belong to root.
  for (const made of [settings.SECRETS_DIR, settings.TLS_DIR]) mkdirSync(made);

  async function execute(file: string, ...args: string[]): Promise<string> {
    const { stdout } = await run(file, args, { env, maxBuffer: MAX_OUTPUT_BYTES });
    return stdout.trim();
  }
  const docker = (...args: string[]) => execute('docker', ...args);
  const compose = (...args: string[]) => docker('compose', ...args);

  async function takeDown(): Promise<void> {
    const down = compose('--profile', '*', 'down', '-v', '--remove-orphans', '--timeout', '20');
    await down.catch((error: Error) => console.log(error.message));
  }

  await takeDown();
  return {
    https: `https://localhost:${httpsPort}`,
    http: `http://localhost:${httpPort}`,
    tlsDir: settings.TLS_DIR,
    volume: (name) => `${PROJECT}_${name}`,
    run: execute,
    docker,
    compose,

    set: (more) => void Object.assign(env, more),

    async scale(replicas) {
      const target = ['--scale', `api=${replicas}`, 'api'];
      await compose('up', '-d', '--no-deps', '--no-recreate', '--no-build', '--wait', ...target);
    },

    sql: (text) =>
      compose('exec', '-T', 'postgres', 'psql', '-XqAt', '-U', 'postgres', '-d', DATABASE, '-c', text),

    replicas: async () => (await compose('ps', '-q', 'api')).split('\n').filter(Boolean),

    async close() {
      await takeDown();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
