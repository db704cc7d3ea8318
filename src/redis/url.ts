import { isIPv6 } from 'node:net';

/** What a URL says of a Redis. Parts that it leaves out are '' or 0. */
export interface RedisTarget {
  /** One server, the primary that sentinels know, or a cluster. */
  topology: 'single' | 'sentinel' | 'cluster';
  /** To servers and sentinels alike; certificates are always verified. */
  tls: boolean;
  /** The server, the sentinels, or some nodes of the cluster; at least one. */
  hosts: { host: string; port: number }[];
  username: string;
  password: string;
  database: number;
  /** Addresses of one kind only; 0: of both. */
  family: number;
  /** What the sentinels call the primary, and the login at the sentinels themselves. */
  sentinel: { name: string; username: string; password: string };
}

/** No reader of URLs takes several hosts. */
const FORM =
  /^(?<scheme>rediss?(?:\+(?<topology>sentinel|cluster))?):\/\/(?:(?<login>[^@/?#\s]*)@)?(?<hosts>[^@/?#\s]*)(?<path>\/[^@?#\s]*)?(?:\?(?<query>[^@#\s]*))?$/;
const HOST = /^(?:\[(?<ipv6>[0-9a-f:.]+)\]|(?<name>[\w.-]+))(?::(?<port>\d{1,5}))?$/i;

/**
 * Reads `redis://`, `redis+sentinel://` and `redis+cluster://`, or `rediss` for TLS, as docs/redis.md has
 * them. `refuse` gets what is wrong, without any part of the URL. @returns undefined after a refusal
 */
export function parseRedisUrl(text: string, refuse: (reason: string) => void): RedisTarget | undefined {
  const parts = FORM.exec(text)?.groups ?? {};
  const faults: string[] = [];
  let target: RedisTarget | undefined;
  if (!/^rediss?(\+(sentinel|cluster))?:\/\//.test(text)) faults.push('has the wrong scheme');
  else if (parts.hosts === '') faults.push('names no host');
  else {
    try {
      target = readTarget(parts, faults);
    } catch {
      faults.push('cannot be read; write special characters of the password percent-encoded');
    }
  }
  for (const fault of faults) refuse(fault);
  return faults.length === 0 ? target : undefined;
}

/** Throws for what cannot be read. */
function readTarget(parts: Record<string, string | undefined>, faults: string[]): RedisTarget {
  const { scheme = '', topology = 'single', login = '', hosts = '', path = '', query = '' } = parts;
  if (scheme === '') throw new Error('not of the form');
  const isSentinel = topology === 'sentinel';
  const [username = '', ...password] = login.split(':');
  const parameters = new Map(query.split('&').filter(Boolean).map(readParameter));
  const steps = path.split('/').filter(Boolean).map(decodeURIComponent);
  const name = isSentinel ? steps.shift() : '';
  const [database = '0', ...more] = steps;
  const known = isSentinel ? ['family', 'sentinel_username', 'sentinel_password'] : ['family'];
  const allowed = isSentinel ? 'family, sentinel_username and sentinel_password are' : 'family is';

  if (topology === 'single' && hosts.includes(','))
    faults.push('has several hosts; that is for redis+sentinel:// and redis+cluster://');
  if ([...parameters.keys()].some((key) => !known.includes(key)))
    faults.push(`has parameters; only ${allowed} allowed, since others change the connection, TLS included`);
  if (![undefined, '4', '6'].includes(parameters.get('family')))
    faults.push('has a family that is neither 4 nor 6');
  if (name === undefined)
    faults.push('does not name the primary; write its name at the sentinels as the path');
  if (!/^\d{1,4}$/.test(database) || more.length > 0) faults.push('has a path that is not a database number');
  else if (topology === 'cluster' && Number(database) !== 0)
    faults.push('has a database number; a cluster has only 0');

  return {
    topology: topology as RedisTarget['topology'],
    tls: scheme.startsWith('rediss'),
    hosts: hosts.split(',').map((host) => readHost(host, isSentinel ? 26_379 : 6379)),
    username: decodeURIComponent(username),
    password: decodeURIComponent(password.join(':')),
    database: Number(database),
    family: Number(parameters.get('family') ?? 0),
    sentinel: {
      name: name ?? '',
      username: parameters.get('sentinel_username') ?? '',
      password: parameters.get('sentinel_password') ?? '',
    },
  };
}

function readHost(text: string, defaultPort: number): { host: string; port: number } {
  const { ipv6, name, port = '0' } = HOST.exec(text)?.groups ?? {};
  if ((name === undefined && !isIPv6(ipv6 ?? '')) || Number(port) > 65_535) throw new Error('no host');
  return { host: ipv6 ?? name ?? '', port: Number(port) || defaultPort };
}

/** Not as a form does it: a `+` is a plus, which random passwords hold. */
function readParameter(text: string): [name: string, value: string] {
  const [name = '', ...value] = text.split('=');
  return [name, decodeURIComponent(value.join('='))];
}
