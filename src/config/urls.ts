import { BlockList, isIP } from 'node:net';
import { readTextFile, showPath } from './files.ts';
import { decode, isPlaceholder, textSchema, type Kind, type Refuse } from './kinds.ts';
import { parseRedisUrl } from '../redis/url.ts';

export const postgresUrl: Kind<string> = {
  schema: textSchema((text, refuse) => {
    if (!/^postgres(ql)?:\/\//.test(text)) refuse('has the wrong scheme');
    else if (COMMA_IN_HOST.test(text)) refuse(SEVERAL_HOSTS);
    else checkPostgres(text, refuse);
    return text;
  }),
  allowed:
    'postgres://USER:PASSWORD@HOST:PORT/DATABASE, and ?sslmode=verify-full for a host outside the private network; ' +
    'make a password with: openssl rand -hex 24',
  example: 'postgres://app:PASSWORD@postgres:5432/app',
  secret: true,
};

export const redisUrl: Kind<string> = {
  schema: textSchema((text, refuse) => {
    const target = parseRedisUrl(text, refuse);
    if (!target) return text;
    const hosts = target.hosts.map(({ host }) => host);
    const passwords = [target.password, target.sentinel.password];
    if (passwords.some(isPlaceholder) && !hosts.every(isLoopback)) refuse('has a placeholder for a password');
    if (!target.tls && !hosts.every(isPrivateHost))
      refuse('leaves the private network without TLS; begin it with rediss instead of redis');
    return text;
  }),
  allowed:
    'redis://:PASSWORD@HOST:PORT/DB, redis+sentinel://:PASSWORD@HOST:PORT,HOST:PORT/NAME/DB (the sentinels) or ' +
    'redis+cluster://:PASSWORD@HOST:PORT,HOST:PORT inside the private network, rediss for redis (TLS) everywhere; ' +
    'make a password with: openssl rand -hex 24',
  example: 'redis://:PASSWORD@redis:6379/0',
  secret: true,
};

/** Of an OpenTelemetry collector. Secret, because some vendors put a token into the path. */
export const collectorUrl: Kind<string> = {
  schema: textSchema((text, refuse) => {
    const url = /^https?:\/\/\S+$/.test(text) && URL.canParse(text) ? new URL(text) : undefined;
    if (!url) refuse('is not a URL of http:// or https://');
    else {
      if (url.username + url.password) refuse('holds a login; send it with OTEL_EXPORTER_OTLP_HEADERS');
      if (url.search + url.hash) refuse('has more than a path');
      if (url.protocol === 'http:' && !isPrivateHost(withoutBrackets(url.hostname)))
        refuse('leaves the private network without TLS; write https://');
    }
    return text;
  }),
  allowed: 'http://HOST:PORT inside the private network, https:// everywhere',
  example: 'http://collector:4318',
  secret: true,
};

const SEVERAL_HOSTS =
  'names several hosts, of which the driver would use none; name one that leads to the primary wherever it is: ' +
  'a DNS name that follows a failover, or a proxy such as HAProxy or PgBouncer';

/** A comma in the host. With an @ behind it, it would stand in a password that was not encoded. */
const COMMA_IN_HOST = /(\/\/|@)[^@/?#]*,[^@]*$|[?&]host=[^@&]*,[^@]*$/;

/** Stands where Postgres URLs may leave the host out (postgres://user@/db?host=/run/postgresql) and URL refuses. */
const NO_HOST = 'no-host.invalid';

/** The URL with its host and password as the driver will read them; undefined when it cannot be read. */
function parsePostgresUrl(text: string): { url: URL; host: string; password: string } | undefined {
  const complete = text.replace(/^(\w+:\/\/[^@/?#]*@)\//, `$1${NO_HOST}/`);
  if (!URL.canParse(complete) || /\s|#/.test(text)) return undefined;
  const url = new URL(complete);
  const { username, pathname, search, searchParams: query } = url;
  const password = decode(url.password);
  const named = url.hostname === NO_HOST ? '' : decode(url.hostname);
  // An @ behind the host is a password that was not encoded: host and password are not what they seem.
  if ((pathname + search).includes('@') || decode(username + pathname) === undefined) return undefined;
  if (password === undefined || named === undefined) return undefined;
  const host = withoutBrackets(query.get('host') || named);
  return { url, host, password: query.get('password') ?? password };
}

function checkPostgres(text: string, refuse: Refuse): void {
  const parsed = parsePostgresUrl(text);
  if (!parsed) return refuse('cannot be read; write special characters of the password percent-encoded');
  const { url, host, password } = parsed;
  if (host === '') return refuse('names no host');
  const query = url.searchParams;
  if (isPlaceholder(password) && !isLoopback(host)) refuse('has a placeholder for a password');
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
    if (path === null || (name === 'sslrootcert' && path === 'system')) continue;
    try {
      readTextFile(path);
    } catch (error) {
      refuse(`names in ${name} a file that cannot be used: ${showPath(path)} ${(error as Error).message}`);
    }
  }
  const fault = isLoopback(host) ? undefined : findPostgresTlsFault(query, host);
  if (fault !== undefined) refuse(`${fault}; write sslmode=verify-full`);
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

function withoutBrackets(host: string): string {
  return host.replace(/^\[(.*)\]$/, '$1');
}

/** True when traffic to `host` cannot leave this machine: loopback addresses, localhost, a socket's path. */
export function isLoopback(host: string): boolean {
  return host.startsWith('/') || host.toLowerCase() === 'localhost' || contains(loopback, host);
}

/**
 * True for names and addresses that only mean something inside a private network: container and
 * service names, cluster and `.internal` domains, RFC 1918 and unique local (RFC 4193) addresses.
 * Other names may resolve to anywhere, so a connection to them has to prove whom it reached.
 */
function isPrivateHost(host: string): boolean {
  if (isLoopback(host) || contains(privateNetworks, host)) return true;
  if (/^[a-z0-9_-]+(\.[a-z0-9_-]+)*\.(svc|internal|local)$/i.test(host)) return true;
  // Resolvers read 134744072 and 0x08080808 as the public address 8.8.8.8.
  return /^[a-z0-9_-]+$/i.test(host) && !/^(\d+|0x[0-9a-f]*)$/i.test(host);
}

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

const privateNetworks = new BlockList();
privateNetworks.addSubnet('10.0.0.0', 8, 'ipv4');
privateNetworks.addSubnet('172.16.0.0', 12, 'ipv4');
privateNetworks.addSubnet('192.168.0.0', 16, 'ipv4');
privateNetworks.addSubnet('fc00::', 7, 'ipv6');

function contains(networks: BlockList, host: string): boolean {
  const version = isIP(host);
  return version !== 0 && networks.check(host, version === 4 ? 'ipv4' : 'ipv6');
}
