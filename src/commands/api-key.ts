import { parseArgs } from 'node:util';
import { pino } from 'pino';
import { loadConfig, type Config } from '../config.ts';
import { AppError } from '../errors.ts';
import { createMetrics } from '../metrics.ts';
import { createApiKeyAdmin, type ApiKeyAdmin, type IssuedApiKey } from '../stores/api-key-admin.ts';
import { apiKeySql, type ApiKey } from '../stores/api-keys.ts';
import { createKeyEvents } from '../stores/key-events.ts';
import { createKeyRing } from '../stores/key-ring.ts';
import { openPostgres, type Db } from '../stores/postgres.ts';
import { openRedis } from '../stores/redis.ts';
import { commandEnvironment, isEntry } from './environment.ts';

const USAGE = `Usage: npm run api-key -- COMMAND   (in the image: node dist/commands/api-key.js COMMAND)

  create --tenant NAME --scopes a:b,c:d   make a key; printed once, never again
         [--name TEXT] [--limit N]        N requests a minute instead of RATE_LIMIT_PER_MINUTE
         [--expires 2030-01-31T00:00:00Z]
  list   [--tenant NAME]                  what is known of the keys
  rotate ID [--overlap SECONDS]           a new key with the same rights; the old one ends after SECONDS (0)
  revoke ID                               end a key for ever, on every process

  --json prints one JSON object. Reads the same variables as the service (DATABASE_URL, API_KEY_SECRET, …).`;

const COMMANDS = ['create', 'list', 'rotate', 'revoke'];
const ACTOR = { actor: 'command:api-key', requestId: null, ip: null };
const REDIS_WAIT_MS = 1_000;

/** Runs one command line and resolves to what it prints. Throws AppError and Error with a text for a person. */
export async function runApiKey(args: string[], env: NodeJS.ProcessEnv): Promise<string> {
  const { positionals, values } = parse(args);
  const [command, ...operands] = positionals;
  if (values.help || command === undefined) return USAGE;
  const [id] = operands;
  const excess = operands.slice(command === 'rotate' || command === 'revoke' ? 1 : 0);
  if (COMMANDS.includes(command) && excess.length > 0)
    throw new Error(`Too many arguments: ${excess.join(' ')}\n\n${USAGE}`);
  const needId = (): string => {
    if (id === undefined) throw new Error(`${command} needs the id of a key (see: list)`);
    return id;
  };
  const print = (issued: IssuedApiKey) => (values.json ? toJson(issued) : describeIssued(issued));

  switch (command) {
    case 'create': {
      const wanted = wantedKey(values);
      return withAdmin(env, async ({ admin }) => print(await admin.create(wanted, ACTOR)));
    }
    case 'list':
      return withAdmin(env, async ({ db }) => {
        const keys = await apiKeySql.listForPeople(db, values.tenant);
        return values.json ? JSON.stringify(keys) : describeList(keys);
      });
    case 'rotate': {
      const overlapSeconds = wholeNumber('--overlap', values.overlap ?? '0', 0, 30 * 86_400);
      return withAdmin(env, async ({ admin, db }) => {
        const { tenant } = await known(db, needId());
        return print(await admin.rotate(tenant, needId(), overlapSeconds, ACTOR));
      });
    }
    case 'revoke':
      return withAdmin(env, async ({ admin, db }) => {
        const { tenant } = await known(db, needId());
        await admin.revoke(tenant, needId(), ACTOR);
        return values.json ? JSON.stringify({ id, revoked: true }) : `Revoked: ${id}`;
      });
    default:
      throw new Error(`Unknown command "${command}"\n\n${USAGE}`);
  }
}

function parse(args: string[]) {
  const text = { type: 'string' } as const;
  const flag = { type: 'boolean' } as const;
  const options = {
    tenant: text,
    scopes: text,
    name: text,
    limit: text,
    expires: text,
    overlap: text,
    json: flag,
    help: flag,
  };
  try {
    return parseArgs({ args, allowPositionals: true, options });
  } catch (error) {
    // Node goes on with advice that concerns nobody here.
    const [reason] = (error as Error).message.split('. ');
    throw new Error(`${reason}\n\n${USAGE}`, { cause: error });
  }
}

type Options = ReturnType<typeof parse>['values'];

function wantedKey({ tenant, scopes, name, limit, expires }: Options) {
  if (tenant === undefined || !/^[a-z0-9][a-z0-9_-]{0,63}$/.test(tenant)) {
    throw new Error('--tenant takes 1 to 64 small letters, digits, dashes or underscores, such as acme');
  }
  const list = (scopes ?? '').split(',').filter((scope) => scope !== '');
  if (list.length === 0 || !list.every((scope) => /^(\*|[a-z-]{1,32}:[a-z-]{1,32})$/.test(scope))) {
    throw new Error('--scopes takes a list such as keys:admin,audit:read, or "*" for every scope');
  }
  const expiresAt = expires === undefined ? null : new Date(expires);
  if (expiresAt && !(expiresAt.getTime() > Date.now())) {
    throw new Error('--expires takes a moment in the future such as 2030-01-31T00:00:00Z');
  }
  return {
    tenant,
    name: (name ?? `made for ${tenant}`).slice(0, 100),
    scopes: list,
    limitPerMinute: limit === undefined ? null : wholeNumber('--limit', limit, 1, 10_000_000),
    expiresAt,
  };
}

function wholeNumber(option: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max) {
    throw new Error(`${option} takes a whole number from ${min} to ${max}`);
  }
  return value;
}

async function known(db: Db, id: string): Promise<ApiKey> {
  const key = await apiKeySql.findWithDigest(db, id);
  if (!key) throw new Error(`There is no key with the id ${id} (see: list)`);
  return key;
}

async function withAdmin<T>(
  env: NodeJS.ProcessEnv,
  work: (parts: { admin: ApiKeyAdmin; db: Db }) => Promise<T>,
): Promise<T> {
  const { config } = loadConfig(env);
  const log = pino({ level: 'silent' });
  const deps = { log, metrics: createMetrics('command') };
  const { replicaUrl: _, migrationUrl: __, ...primary } = config.postgres;
  const db = openPostgres(
    { ...primary, poolMax: 1, applicationName: 'hardpoint-api-key' },
    { ...deps, target: 'primary' },
  );
  const redis = await connectRedis(config, deps);
  const { announce } = createKeyEvents(
    createKeyRing(db, { ...config.auth, hearsOfChanges: () => false }),
    redis,
    log,
  );
  try {
    return await work({ admin: createApiKeyAdmin(db, { ...config.auth, announce }), db });
  } finally {
    await redis?.close();
    await db.close();
  }
}

/** So that running processes hear of the change at once; without Redis they learn it within seconds. */
async function connectRedis(
  { redis: { url, commandTimeoutMs } }: Config,
  deps: Parameters<typeof openRedis>[1],
) {
  if (url === undefined) return undefined;
  const redis = openRedis({ url, commandTimeoutMs, role: 'limits' }, deps);
  await new Promise<void>((resolve) => {
    redis.client.once('ready', resolve);
    setTimeout(resolve, REDIS_WAIT_MS).unref();
  });
  return redis;
}

function describeIssued({ key, token }: IssuedApiKey): string {
  return `API key: ${token}
Id: ${key.id}, tenant: ${key.tenant}, scopes: ${key.scopes.join(',')}
Keep it now: it is stored as a digest only and cannot be shown again.`;
}

function toJson({ key, token }: IssuedApiKey): string {
  return JSON.stringify({ ...key, token });
}

function describeList(keys: ApiKey[]): string {
  if (keys.length === 0) return 'No keys.';
  const rows = keys.map((key) => [
    key.id,
    key.tenant,
    stateOf(key),
    `…${key.hint}`,
    String(key.limitPerMinute ?? 'default'),
    key.lastUsedAt?.toISOString() ?? 'never',
    key.scopes.join(','),
    key.name,
  ]);
  const table = [['ID', 'TENANT', 'STATE', 'ENDS IN', 'LIMIT', 'LAST USED', 'SCOPES', 'NAME'], ...rows];
  const widths =
    table[0]?.map((_, column) => Math.max(...table.map((row) => row[column]?.length ?? 0))) ?? [];
  return table
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

function stateOf({ revokedAt, expiresAt, replacedBy }: ApiKey): string {
  if (revokedAt) return 'revoked';
  if (expiresAt && expiresAt <= new Date()) return 'expired';
  return replacedBy ? 'rotated' : 'active';
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
