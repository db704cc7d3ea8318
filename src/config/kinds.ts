import { isIP } from 'node:net';
import { z } from 'zod';
import { parseToken } from '../auth/token.ts';

/** A kind of value: how its text is read, and in words what is allowed. */
export interface Kind<T> {
  schema: z.ZodType<T, string>;
  allowed: string;
  example?: string;
  /** Never shown, and may come from a file, NAME_FILE. */
  secret?: true;
}

/** Adds a reason why the text is refused; it may be called several times for one text. */
export type Refuse = (reason: string) => void;

/** Builds a schema from a function; what it returns after a refusal is ignored. */
export function textSchema<T>(read: (text: string, refuse: Refuse) => T): z.ZodType<T, string> {
  return z
    .string()
    .transform((text, context) =>
      read(text, (message) => context.addIssue({ code: 'custom', message, input: undefined })),
    );
}

/** The same kind, and undefined for an empty text. */
export function optional<T>(kind: Kind<T>): Kind<T | undefined> {
  const schema = z.string().transform((text) => text || undefined);
  return { ...kind, schema: schema.pipe(kind.schema.optional()) };
}

/** Digits only: Number() alone would also take ' ', 1e3 and 0x10. */
export function wholeNumber(min: number, max: number): Kind<number> {
  return {
    schema: bounded(/^(0|[1-9]\d*)$/, 'is not a whole number', min, max),
    allowed: `a whole number from ${min} to ${max}`,
  };
}

export function decimalNumber(min: number, max: number): Kind<number> {
  return {
    schema: bounded(/^(0|[1-9]\d*)(\.\d{1,3})?$/, 'is not a plain number', min, max),
    allowed: `a number from ${min} to ${max}, with up to 3 decimals`,
  };
}

/** A number in seconds or MiB, as operators write it, that the service counts in milliseconds or bytes. */
export function scaled(kind: Kind<number>, factor: number): Kind<number> {
  return { ...kind, schema: kind.schema.transform((value) => Math.round(value * factor)) };
}

function bounded(pattern: RegExp, message: string, min: number, max: number): z.ZodType<number, string> {
  const range = z.number().min(min, `is less than ${min}`).max(max, `is more than ${max}`);
  return z.string().regex(pattern, message).transform(Number).pipe(range);
}

export const flag: Kind<boolean> = {
  schema: textSchema((text, refuse) => {
    const yes = /^(true|1|yes|on)$/i.test(text);
    if (!yes && !/^(false|0|no|off)$/i.test(text)) refuse('is neither true nor false');
    return yes;
  }),
  allowed: 'true or false (also 1/0, yes/no, on/off)',
};

/** One word of a closed list, in any case; `aliases` are accepted for other words of the list. */
export function oneOf<const Word extends string>(
  words: readonly Word[],
  aliases: Record<string, Word> = {},
): Kind<Word> {
  const word = z.string().transform((text) => aliases[text.toLowerCase()] ?? text.toLowerCase());
  return {
    schema: word.pipe(z.enum(words, 'is not in the list')),
    allowed: `one of ${words.join(', ')}`,
  };
}

export const keyEnvironment: Kind<string> = {
  schema: z.string().regex(/^[a-z]{2,10}$/, 'does not have the right form'),
  allowed: '2 to 10 letters a-z',
};

export const bindAddress: Kind<string> = {
  schema: z.string().refine((text) => isIP(text) !== 0 || text === 'localhost', 'is not an IP address'),
  allowed: 'an IP address of this machine, or localhost; 0.0.0.0 means all IPv4, :: all',
};

/** Splits a comma list; blanks around the parts do not count, empty parts are dropped. */
function splitList(text: string): string[] {
  const parts = text.split(',').map((part) => part.trim());
  return parts.filter((part) => part !== '');
}

function listOf(findFault: (part: string) => string | undefined): z.ZodType<string[], string> {
  return textSchema((text, refuse) => {
    const parts = splitList(text);
    for (const part of parts) {
      const fault = findFault(part);
      if (fault !== undefined) refuse(`${JSON.stringify(part)} ${fault}`);
    }
    return parts;
  });
}

/**
 * Proxies whose X-Forwarded-For is believed. Fastify would also take `true` (believes everybody)
 * and a number (silently ignored since 5.12), so only addresses and networks pass.
 */
export const proxyList: Kind<string[]> = {
  schema: listOf(findProxyFault),
  allowed: 'IP addresses and CIDR networks (IPv4 prefix from 8, IPv6 from 7), separated by commas',
  example: '10.0.0.0/8,fd00::/8',
};

const FORGED = 'would let every client forge X-Forwarded-For, and with it its address and its rate limit';

function findProxyFault(proxy: string): string | undefined {
  if (/^(\*|true)$/i.test(proxy)) return FORGED;
  if (/^\d+$/.test(proxy)) return `is a hop count: it ${FORGED}`;
  const [, address = '', prefix] = /^([^/%]*)(?:\/(.*))?$/.exec(proxy) ?? [];
  const version = isIP(address);
  if (version === 0) return 'is not an IP address or CIDR network';
  if (version === 6 && new URL(`http://[${address}]`).hostname.startsWith('[::ffff:')) {
    return 'is an IPv4 address in IPv6 form; write the IPv4 address';
  }
  if (prefix === undefined) return undefined;
  const [widest, narrowest] = version === 4 ? [8, 32] : [7, 128];
  if (!/^\d{1,3}$/.test(prefix) || Number(prefix) > narrowest) return 'has no valid prefix length';
  return Number(prefix) < widest ? `is too wide: it ${FORGED}` : undefined;
}

/** Browser origins that may read responses. They are compared as text, so each must be what a browser sends. */
export const originList: Kind<string[]> = {
  schema: listOf(findOriginFault),
  allowed: 'exact origins scheme://host[:port], separated by commas; http:// for localhost only',
  example: 'https://app.example.com',
};

function findOriginFault(origin: string): string | undefined {
  if (origin.includes('*')) return 'is a wildcard: any site could read responses; name each origin';
  if (origin === 'null') return 'is sent by sandboxed pages of any site; name each origin';
  const url = URL.canParse(origin) ? new URL(origin) : undefined;
  if (url?.protocol !== 'https:' && url?.protocol !== 'http:') return 'is not an origin';
  if (url.protocol === 'http:' && !['localhost', '127.0.0.1'].includes(url.hostname)) {
    return 'is not encrypted: http:// is for localhost and 127.0.0.1';
  }
  return url.origin === origin ? undefined : `is not what a browser sends, which is ${url.origin}`;
}

/** Names of HTTP headers, in lower case. A wildcard would not hold for Authorization (Fetch, 3.3.5). */
export const headerNames: Kind<string[]> = {
  schema: z
    .string()
    .toLowerCase()
    .pipe(listOf((name) => (/^[a-z0-9-]+$/.test(name) ? undefined : 'is not the name of a header'))),
  allowed: 'names of headers, separated by commas',
  example: 'x-client-version',
};

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
  secret: true,
};

/** `TOKEN` or `tenant:TOKEN`, separated by commas. Entries are named by number: nothing of them is shown. */
export const keyList: Kind<{ tenant: string; token: string }[]> = {
  schema: textSchema((text, refuse) => {
    const seen: string[] = [];
    return splitList(text).map((part, index) => {
      const colon = part.lastIndexOf(':');
      const [tenant, token] = [colon < 0 ? 'default' : part.slice(0, colon), part.slice(colon + 1)];
      const entry = `entry ${index + 1}`;
      const id = parseToken(token)?.id ?? '';
      if (id === '') refuse(`${entry} ${isPlaceholder(token) ? 'is a placeholder' : NOT_A_KEY}`);
      else if (seen.includes(id)) refuse(`${entry} repeats the key of entry ${seen.indexOf(id) + 1}`);
      seen.push(id);
      // As in the tables' check constraints.
      if (!/^[a-z0-9][a-z0-9_-]{0,63}$/.test(tenant))
        refuse(`${entry} names a tenant that is not 1 to 64 of a-z, 0-9, _ and -`);
      return { tenant, token };
    });
  }),
  allowed: 'KEY or tenant:KEY, separated by commas; make a key with: npm run api-key -- create',
  example: 'KEY1,acme:KEY2',
  secret: true,
};

const NOT_A_KEY = 'is not a key of this service: its form or its checksum is wrong';

/** `name=value,name=value`, percent-encoded as in W3C Baggage. Entries are named by number: nothing is shown. */
export const headerList: Kind<Record<string, string>> = {
  schema: textSchema((text, refuse) => {
    const headers: Record<string, string> = {};
    for (const [index, entry] of splitList(text).entries()) {
      const [, name, value = ''] = /^([\w!#$%&'*+.^`|~-]+)\s*=\s*(.*)$/.exec(entry) ?? [];
      const decoded = decode(value) ?? '\0';
      if (name === undefined) refuse(`entry ${index + 1} is not name=value`);
      else if (!/^[\x20-\x7e]*$/.test(decoded)) refuse(`entry ${index + 1} is not percent-encoded text`);
      else headers[name.toLowerCase()] = decoded;
    }
    return headers;
  }),
  allowed: 'name=value, separated by commas, with special characters percent-encoded',
  example: 'authorization=Bearer%20TOKEN',
  secret: true,
};

/** Undefined for what is not percent-encoded. */
export function decode(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}
