import { existsSync } from 'node:fs';
import { types, type CustomTypesConfig } from 'pg';

/**
 * What the reading of this code relies on. The database, the role and, behind PgBouncer, another client of the same
 * connection may have set these to anything. Not here is what an operator may want to decide, such as
 * `default_transaction_read_only`.
 */
const SETTINGS = {
  client_encoding: 'UTF8',
  datestyle: 'ISO, MDY',
  intervalstyle: 'postgres',
  timezone: 'UTC',
  bytea_output: 'hex',
  extra_float_digits: '1',
  standard_conforming_strings: 'on',
  search_path: 'public',
};

export type Settings = Record<string, string | number>;

/** The URL with these settings for the whole session. Settings that the URL itself makes win. */
export function withSettings(url: string, more: Settings = {}): string {
  const settings = { ...SETTINGS, default_transaction_isolation: 'read committed', ...more };
  const flags = Object.entries(settings).map(([name, value]) => `-c ${name}=${escapeFlag(value)}`);
  return changeQuery(url, (query) => {
    query.set('options', [...flags, query.get('options') ?? ''].join(' ').trim());
  });
}

/** Where systems keep the certificates of their CAs: Debian and Alpine, Red Hat, macOS and the BSDs. */
const SYSTEM_CAS = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/cert.pem',
];

/** `sslrootcert=system` as libpq means it; pg would read a file of this name. Without a known file, Node's own CAs. */
export function withSystemCas(url: string): string {
  return changeQuery(url, (query) => {
    if (query.get('sslrootcert') !== 'system') return;
    const file = SYSTEM_CAS.find((path) => existsSync(path));
    if (file === undefined) query.delete('sslrootcert');
    else query.set('sslrootcert', file);
  });
}

function changeQuery(url: string, change: (query: URLSearchParams) => void): string {
  const start = url.indexOf('?');
  const query = new URLSearchParams(start < 0 ? '' : url.slice(start));
  change(query);
  const base = start < 0 ? url : url.slice(0, start);
  return query.size === 0 ? base : `${base}?${query.toString()}`;
}

/** BEGIN with these settings for this one transaction, for a connection that cannot keep any of its own. */
export function beginWithSettings(more: Settings): string {
  const settings = Object.entries({ ...SETTINGS, ...more });
  const commands = settings.map(([name, value]) => `set local ${name} = '${value}'`);
  return ['begin isolation level read committed', ...commands].join('; ');
}

function escapeFlag(value: string | number): string {
  return String(value).replaceAll(/[\\ ]/g, '\\$&');
}

const TIMES = new Set<number>([types.builtins.TIMESTAMPTZ, types.builtins.TIMESTAMP, types.builtins.DATE]);

/** As pg reads values, except that a time that cannot be read is an error. pg makes it null, as if there were none. */
export const strictTypes: CustomTypesConfig = {
  getTypeParser: (oid, format) => {
    const parse = types.getTypeParser(oid, format);
    if (!TIMES.has(oid)) return parse;
    return (text: string) => {
      const time: unknown = parse(text);
      if (typeof time === 'number' || (time instanceof Date && !Number.isNaN(time.getTime()))) return time;
      throw new Error(`Postgres sent a time that cannot be read: ${text}`);
    };
  },
};
