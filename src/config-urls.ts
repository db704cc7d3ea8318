import { isPrivateHost, isLoopback } from './config-hosts.ts';
import { findFileFault } from './config-files.ts';
import { textSchema, type Kind, type Refuse } from './config-kinds.ts';
import { isPlaceholder } from './config-secrets.ts';
import { redactRedisUrl } from './stores/redis-url.ts';

/** A connection URL with its host as the driver will read it. */
interface ConnectionUrl {
  url: URL;
  host: string;
}

export const postgresUrl: Kind<string> = {
  schema: textSchema(readPostgresUrl),
  allowed:
    'postgres://USER:PASSWORD@HOST:PORT/DATABASE, and ?sslmode=verify-full for a host outside the private network; ' +
    'make a password with: openssl rand -hex 24',
  example: 'postgres://app:PASSWORD@postgres:5432/app',
  secret: 'url',
};

/** The URL without its password, or undefined when it cannot be told which part is the password. */
export function redactUrl(text: string): string | undefined {
  if (text.startsWith('redis')) return redactRedisUrl(text);
  const parsed = parseUrl(text);
  return parsed && redact(parsed.url);
}

function readPostgresUrl(text: string, refuse: Refuse): string {
  if (text === '') return text;
  const parsed = parseUrl(text);
  if (!/^postgres(ql)?:\/\//.test(text)) refuse('has the wrong scheme');
  else if (namesSeveralHosts(text)) refuse(SEVERAL_HOSTS);
  else if (!parsed) refuse('cannot be read; write special characters of the password percent-encoded');
  else if (parsed.host === '') refuse('names no host');
  else {
    const password = parsed.url.searchParams.get('password') ?? decodeURIComponent(parsed.url.password);
    if (isPlaceholder(password) && !isLoopback(parsed.host)) refuse('has a placeholder for a password');
    checkPostgres(parsed, refuse);
  }
  return text;
}

const SEVERAL_HOSTS =
  'names several hosts, of which the driver would use none; name one that leads to the primary wherever it is: ' +
  'a DNS name that follows a failover, or a proxy such as HAProxy or PgBouncer';

function namesSeveralHosts(text: string): boolean {
  const [, authority = '', rest = ''] = /^\w+:\/\/([^/?#]*)(.*)$/.exec(text) ?? [];
  // An @ behind the host: what looks like a host is a password that was not encoded.
  if (rest.includes('@')) return false;
  const host = new URLSearchParams(rest.split('?')[1]).get('host');
  return (host ?? authority.slice(authority.lastIndexOf('@') + 1)).includes(',');
}

/** Stands where Postgres URLs may leave the host out (postgres://user@/db?host=/run/postgresql) and URL refuses. */
const NO_HOST = 'no-host.invalid';

function parseUrl(text: string): ConnectionUrl | undefined {
  if (!/^postgres(ql)?:\/\/\S*$/.test(text)) return undefined;
  try {
    const url = new URL(text.replace(/^(\w+:\/\/[^@/?#]*@)\//, `$1${NO_HOST}/`));
    // An @ or # behind the host is a password that was not encoded: host and password are not what they seem.
    if (/[@#]/.test(url.pathname + url.search) || text.includes('#')) return undefined;
    decodeURIComponent([url.username, url.password, url.pathname].join(' '));
    const named = url.hostname === NO_HOST ? '' : decodeURIComponent(url.hostname);
    const host = url.searchParams.get('host') || named;
    return { url, host: host.replace(/^\[(.*)\]$/, '$1') };
  } catch {
    return undefined;
  }
}

/** Parameters that hold no secret; the values of all others are hidden. */
const SHOWN = new Set(['host', 'port', 'sslmode', 'sslrootcert', 'ssl', 'uselibpqcompat']);

function redact(url: URL, query = url.searchParams): string {
  // A name without a password may be a password whose colon was forgotten.
  const user = url.password === '' ? '***' : `${url.username}:***`;
  const login = url.username === '' && url.password === '' ? '' : `${user}@`;
  const host = url.host.replace(NO_HOST, '');
  const shown = [...query].map(([name, value]) => `${name}=${SHOWN.has(name) ? value : '***'}`).join('&');
  return `${url.protocol}//${login}${host}${url.pathname}${shown && `?${shown}`}`;
}

function checkPostgres({ url, host }: ConnectionUrl, refuse: Refuse): void {
  const query = url.searchParams;
  if (url.pathname.length < 2) refuse('names no database');
  // The driver takes the last of several, other readers the first.
  if (new Set(query.keys()).size < query.size) refuse('repeats a parameter');
  if (query.has('target_session_attrs')) {
    refuse(
      'has target_session_attrs, which the driver ignores; leave it out, and name a host that leads to the primary',
    );
  }
  for (const name of ['statement_timeout', 'query_timeout']) {
    if (query.has(name)) refuse(`sets ${name}, which QUERY_TIMEOUT_SECONDS decides`);
  }
  for (const name of ['sslrootcert', 'sslcert', 'sslkey']) {
    const path = query.get(name);
    const isFile = path !== null && !(name === 'sslrootcert' && path === 'system');
    const fault = isFile ? findFileFault(path) : undefined;
    if (fault !== undefined) refuse(`names in ${name} a file that cannot be used: ${fault}`);
  }
  const fault = isLoopback(host) ? undefined : findPostgresTlsFault(query, host);
  if (fault === undefined) return;
  const mended = new URLSearchParams(query);
  for (const name of ['ssl', 'uselibpqcompat']) mended.delete(name);
  mended.set('sslmode', 'verify-full');
  refuse(`${fault}; write ${redact(url, mended)}`);
}

function findPostgresTlsFault(query: URLSearchParams, host: string): string | undefined {
  if (query.has('uselibpqcompat')) return 'has uselibpqcompat, with which most modes verify nothing';
  if (query.has('ssl')) return 'has ssl, which can switch verification off';
  const mode = query.get('sslmode') ?? '';
  if (mode === 'verify-full') return undefined;
  if (mode === '' || mode === 'disable') {
    return isPrivateHost(host) ? undefined : 'leaves the private network without TLS';
  }
  if (mode === 'no-verify' || mode === 'allow')
    return `has sslmode=${mode}, which does not verify the server`;
  if (['prefer', 'require', 'verify-ca'].includes(mode)) {
    return `has sslmode=${mode}, which pg 8 reads as verify-full and pg 9 weakens`;
  }
  return 'has an unknown sslmode';
}
