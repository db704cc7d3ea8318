import { pino } from 'pino';
import { loadConfig, type Config } from '../config/config.ts';
import { AppError } from '../errors.ts';
import { createMetrics } from '../observability/metrics.ts';
import { createAfterWrite } from '../cache/after-write.ts';
import { createApiKeyAdmin, type ApiKeyAdmin, type IssuedApiKey } from '../auth/administration.ts';
import { apiKeySql } from '../auth/repository.ts';
import { createKeyPublisher } from '../auth/invalidation.ts';
import { openPostgres, type Db } from '../postgres/postgres.ts';
import { openRedis } from '../redis/redis.ts';
import { USAGE, parseArguments, wantedKey, wholeNumber } from './api-key-arguments.ts';
import { describeIssued, describeList } from './api-key-output.ts';
import { commandEnvironment, isEntry } from './environment.ts';

const ACTOR = { actor: 'command:api-key', requestId: null, ip: null };
const REDIS_WAIT_MS = 1_000;

/** Runs one command line and resolves to what it prints. Throws AppError and Error with a text for a person. */
export async function runApiKey(args: string[], env: NodeJS.ProcessEnv): Promise<string> {
  const { positionals, values } = parseArguments(args);
  const [command, ...operands] = positionals;
  if (values.help || command === undefined) return USAGE;
  const takesId = command === 'rotate' || command === 'revoke';
  if (!takesId && command !== 'create' && command !== 'list')
    throw new Error(`Unknown command "${command}"\n\n${USAGE}`);
  const excess = operands.slice(takesId ? 1 : 0);
  if (excess.length > 0) throw new Error(`Too many arguments: ${excess.join(' ')}\n\n${USAGE}`);
  const [id] = operands;

  if (command === 'list') {
    return withAdmin(env, async ({ db }) => {
      const keys = await apiKeySql.listForPeople(db, values.tenant);
      return values.json ? JSON.stringify(keys) : describeList(keys);
    });
  }
  const print = ({ key, token }: IssuedApiKey) =>
    values.json ? JSON.stringify({ ...key, token }) : describeIssued({ key, token });
  if (command === 'create') {
    const wanted = wantedKey(values);
    return withAdmin(env, async ({ admin }) => print(await admin.create(wanted, ACTOR)));
  }
  if (id === undefined) throw new Error(`${command} needs the id of a key (see: list)`);
  const overlapSeconds = wholeNumber('--overlap', values.overlap ?? '0', 0, 30 * 86_400);
  return withAdmin(env, async ({ admin, db }) => {
    const [known] = await apiKeySql.findStored(db, [id]);
    if (!known) throw new Error(`There is no key with the id ${id} (see: list)`);
    if (command === 'rotate') {
      const { result, everywhere } = await admin.rotate(known.tenant, id, overlapSeconds, ACTOR);
      warnUnless(everywhere);
      return print(result);
    }
    warnUnless((await admin.revoke(known.tenant, id, ACTOR)).everywhere);
    return values.json ? JSON.stringify({ id, revoked: true }) : `Revoked: ${id}`;
  });
}

function warnUnless(everywhere: boolean): void {
  if (!everywhere)
    console.error('Not every running process could be informed; each learns it within 5 seconds.');
}

async function withAdmin<T>(
  env: NodeJS.ProcessEnv,
  work: (parts: { admin: ApiKeyAdmin; db: Db }) => Promise<T>,
): Promise<T> {
  // It limits nothing: how many processes share the limits does not matter here.
  const { config } = loadConfig({ ...env, EXPECTED_REPLICAS: env.EXPECTED_REPLICAS || '1' });
  const deps = { log: pino({ level: 'silent' }), metrics: createMetrics('command') };
  const { replicaUrl: _, migrationUrl: __, ...primary } = config.postgres;
  const db = openPostgres(
    { ...primary, poolMax: 1, applicationName: 'hardpoint-api-key' },
    { ...deps, target: 'primary' },
  );
  const announce = (ids: string[]) => informProcesses(config, deps, ids);
  const afterWrite = createAfterWrite({ announce, log: deps.log });
  try {
    return await work({ admin: createApiKeyAdmin(db, { ...config.auth, afterWrite }), db });
  } finally {
    await db.close();
  }
}

/** Resolves to whether all that run know it by now. */
async function informProcesses(
  { redis: { url, commandTimeoutMs }, auth: { keyEnvironment: environment } }: Config,
  deps: Parameters<typeof openRedis>[1],
  ids: string[],
): Promise<boolean> {
  if (url === undefined) return false;
  const redis = openRedis({ url, commandTimeoutMs, role: 'limits' }, deps);
  try {
    await new Promise<void>((resolve) => {
      redis.onReady(resolve);
      setTimeout(resolve, REDIS_WAIT_MS).unref();
    });
    return await createKeyPublisher(redis, environment, deps.log)(ids, null);
  } finally {
    await redis.close();
  }
}

if (isEntry(import.meta.url)) {
  try {
    console.log(await runApiKey(process.argv.slice(2), commandEnvironment()));
  } catch (error) {
    const cause = error instanceof AppError ? error.cause : undefined;
    console.error(`${(error as Error).message}${cause instanceof Error ? `: ${cause.message}` : ''}`);
    process.exitCode = 1;
  }
}
