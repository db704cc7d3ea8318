import { parseArgs } from 'node:util';

export const USAGE = `Usage: npm run api-key -- COMMAND   (in the image: node dist/cli/api-key.js COMMAND)

  create --tenant NAME --scopes a:b,c:d   make a key; printed once, never again
         [--name TEXT] [--limit N]        N requests a minute instead of RATE_LIMIT_PER_MINUTE
         [--expires 2030-01-31T00:00:00Z]
  list   [--tenant NAME]                  what is known of the keys
  rotate ID [--overlap SECONDS]           a new key with the same rights; the old one ends after SECONDS (0)
  revoke ID                               end a key, on every process

  --json prints one JSON object. Reads the same variables as the service (DATABASE_URL, API_KEY_SECRET, …).`;

/** Throws an Error with a text for a person. */
export function parseArguments(args: string[]) {
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
    // Node's second sentence explains how to write operands that begin with a dash. None does here.
    const [reason] = (error as Error).message.split('. ');
    throw new Error(`${reason}\n\n${USAGE}`, { cause: error });
  }
}

export type Options = ReturnType<typeof parseArguments>['values'];

/** What `create` is to make. Throws an Error that names the option and shows a good one. */
export function wantedKey({ tenant, scopes, name, limit, expires }: Options) {
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
    expiresAt: expiresAt?.toISOString() ?? null,
  };
}

export function wholeNumber(option: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max) {
    throw new Error(`${option} takes a whole number from ${min} to ${max}`);
  }
  return value;
}
