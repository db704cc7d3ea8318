import { splitList, textSchema, type Kind } from './config-kinds.ts';
import { parseToken } from './stores/api-key-token.ts';

export interface BootstrapKey {
  tenant: string;
  token: string;
}

/** Words that examples and templates use where a secret belongs. */
export function isPlaceholder(text: string): boolean {
  return /change[-_ ]?me|your[-_ ]|placeholder|example|internal-admin-key|^<.*>$|^pass(word)?$/i.test(text);
}

export const strongSecret: Kind<string> = {
  schema: textSchema((text, refuse) => {
    if (text === '') return text;
    if (isPlaceholder(text)) refuse('is a placeholder');
    if (text.length < 32) refuse('is shorter than 32 characters');
    if (new Set(text).size < 10) refuse('has fewer than 10 different characters');
    else if (/^(.{1,16}?)\1+$/.test(text)) refuse('is one short text, repeated');
    return text;
  }),
  allowed: 'at least 32 random characters; make one with: openssl rand -base64 48',
  example: '$(openssl rand -base64 48)',
  secret: 'whole',
};

/** `TOKEN` or `tenant:TOKEN`, separated by commas. Entries are named by number: nothing of them is shown. */
export const keyList: Kind<BootstrapKey[]> = {
  schema: textSchema((text, refuse) => {
    const keys = splitList(text).map(readKey);
    const seen = new Map<string, number>();
    for (const [index, { tenant, token }] of keys.entries()) {
      const entry = `entry ${index + 1}`;
      const parsed = parseToken(token);
      if (!parsed) refuse(`${entry} ${isPlaceholder(token) ? 'is a placeholder' : NOT_A_KEY}`);
      else if (seen.has(parsed.id)) refuse(`${entry} repeats the key of entry ${seen.get(parsed.id)}`);
      else seen.set(parsed.id, index + 1);
      if (!TENANT.test(tenant)) refuse(`${entry} names a tenant that is not ${TENANT_IN_WORDS}`);
    }
    return keys;
  }),
  allowed: 'KEY or tenant:KEY, separated by commas; make a key with: npm run api-key -- create',
  example: 'KEY1,acme:KEY2',
  secret: 'whole',
};

const NOT_A_KEY = 'is not a key of this service: its form or its checksum is wrong';
/** As in the tables' check constraints. */
const TENANT = /^[a-z0-9][a-z0-9_-]{0,63}$/;
const TENANT_IN_WORDS = '1 to 64 of a-z, 0-9, _ and -';

function readKey(entry: string): BootstrapKey {
  const colon = entry.lastIndexOf(':');
  if (colon === -1) return { tenant: 'default', token: entry };
  return { tenant: entry.slice(0, colon), token: entry.slice(colon + 1) };
}
