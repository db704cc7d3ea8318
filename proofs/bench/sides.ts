// Goes with the example: src/features/orders
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { orderSql } from '../../src/features/orders/repository.ts';
import type { Query } from '../../src/postgres/postgres.ts';
import { startServer, type Server } from './servers.ts';
import { MAIN, type World } from './world.ts';

const programOf = (name: string) => new URL(name, import.meta.url).pathname;
/** What the hand-made ones send to Redis beside their scripts. */
export const PEER_COMMANDS = ['get', 'set'];

export function startService({ env }: World, more: NodeJS.ProcessEnv = {}): Promise<Server> {
  return startServer(MAIN, { ...env, ...more });
}

/** The service with copies of a route beside its own. */
export function startWithCopies({ env }: World, copies: number): Promise<Server> {
  const preload = new URL('many-routes.js', import.meta.url).href;
  return startServer(MAIN, { ...env, BENCH_COPIES: String(copies) }, ['--import', preload]);
}

export function startBare({ body }: World): Promise<Server> {
  return startServer(programOf('bare.ts'), { BENCH_BODY: body });
}

export function startNodeHttp({ body }: World): Promise<Server> {
  return startServer(programOf('node-http.ts'), { BENCH_BODY: body });
}

export type KeyStore = 'redis' | 'postgres';

export function startAssembled({ env }: World, keys: KeyStore): Promise<Server> {
  return startServer(programOf('assembled.ts'), { ...env, BENCH_KEYS: keys });
}

/** Installs Express and its packages first when they are not there: they are no dependencies of the service. */
export async function startExpress({ env }: World, keys: KeyStore, say: (line: string) => void) {
  const folder = programOf('peers/orders/');
  if (!existsSync(`${folder}node_modules`)) {
    say('Installing Express and its packages in proofs/bench/peers/orders (npm ci)…');
    const { status } = spawnSync('npm', ['ci', '--no-fund', '--no-audit'], { cwd: folder, stdio: 'inherit' });
    if (status !== 0)
      throw new Error('npm ci failed in proofs/bench/peers/orders: name the parts without "peers"');
  }
  const { text } = await statementOf((tx) => orderSql.find(tx, '', ''));
  return startServer(`${folder}express.js`, { ...env, BENCH_KEYS: keys, BENCH_STATEMENT: text });
}

/** The first statement that `work` asks for, which is not sent. */
export async function statementOf(
  work: (tx: { query<Row extends object>(query: Query): Promise<Row[]> }) => Promise<unknown>,
): Promise<Query> {
  let found: Query | undefined;
  await work({
    query: async (query) => {
      found ??= query;
      return [];
    },
  });
  if (!found) throw new Error('no statement was asked for');
  return found;
}
