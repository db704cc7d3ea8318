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

const FORM =
  /^(?<scheme>rediss?(?:\+(?:sentinel|cluster))?):\/\/(?:(?<login>[^@/?#\s]*)@)?(?<hosts>[^@/?#\s]*)(?<path>\/[^@?#\s]*)?(?:\?(?<query>[^@#\s]*))?$/;
const HOST = /^(?:\[(?<ipv6>[0-9a-f:.]+)\]|(?<name>[\w.-]+))(?::(?<port>\d{1,5}))?$/i;

/**
 * Reads `redis://`, `redis+sentinel://` and `redis+cluster://`, or `rediss` for TLS, as docs/redis.md has
 * them. `refuse` is told what is wrong, without any part of the URL. @returns undefined after a refusal
 */
export function parseRedisUrl(text: string, refuse: (reason: string) => void): RedisTarget | undefined {
  const faults: string[] = [];
  const parts = split(text);
  if (!/^rediss?(\+(sentinel|cluster))?:\/\//.test(text)) faults.push('has the wrong scheme');
  else if (!parts) faults.push('cannot be read; write special characters of the password percent-encoded');
  else if (parts.hosts.length === 0) faults.push('names no host');
  else faults.push(...findFaults(parts));
  for (const fault of faults) refuse(fault);
  if (!parts || faults.length > 0) return undefined;

  const { scheme, topology, login, path, query } = parts;
  const [name = '', database = ''] = topology === 'sentinel' ? path : ['', ...path];
  const port = topology === 'sentinel' ? 26_379 : 6379;
  return {
    topology,
    tls: scheme.startsWith('rediss'),
    hosts: parts.hosts.map((each) => ({ host: each.host, port: each.port || port })),
    username: login[0] ?? '',
    password: login[1] ?? '',
    database: Number(database),
    family: Number(query.get('family') ?? 0),
    sentinel: {
      name,
      username: query.get('sentinel_username') ?? '',
      password: query.get('sentinel_password') ?? '',
    },
  };
}

interface Parts {
  scheme: string;
  topology: RedisTarget['topology'];
  login: string[];
  hosts: { host: string; port: number }[];
  path: string[];
  query: Map<string, string>;
}

function split(text: string): Parts | undefined {
  const found = FORM.exec(text)?.groups;
  if (!found) return undefined;
  const { scheme = '', login, path = '', query = '' } = found;
  const [user = '', ...password] = (login ?? '').split(':');
  try {
    return {
      scheme,
      topology: (scheme.split('+')[1] ?? 'single') as RedisTarget['topology'],
      login: login
        ? [user, ...(password.length > 0 ? [password.join(':')] : [])].map(decodeURIComponent)
        : [],
      hosts: found.hosts ? found.hosts.split(',').map(readHost) : [],
      path: path.split('/').slice(1).filter(Boolean).map(decodeURIComponent),
      query: new Map(query.split('&').filter(Boolean).map(readParameter)),
    };
  } catch {
    return undefined;
  }
}

function readHost(text: string): { host: string; port: number } {
  const { ipv6, name, port = '0' } = HOST.exec(text)?.groups ?? {};
  if ((name === undefined && !isIPv6(ipv6 ?? '')) || Number(port) > 65_535) throw new Error('no host');
  return { host: ipv6 ?? name ?? '', port: Number(port) };
}

/** Not as a form does it: a `+` is a plus, which random passwords hold. */
function readParameter(text: string): [name: string, value: string] {
  const [name = '', ...value] = text.split('=');
  return [name, decodeURIComponent(value.join('='))];
}

function findFaults({ topology, hosts, path, query }: Parts): string[] {
  const faults: string[] = [];
  if (topology === 'single' && hosts.length > 1) {
    faults.push('has several hosts; that is for redis+sentinel:// and redis+cluster://');
  }
  const allowed = topology === 'sentinel' ? ['family', 'sentinel_username', 'sentinel_password'] : ['family'];
  if ([...query.keys()].some((name) => !allowed.includes(name))) {
    const only = allowed.length === 1 ? 'family is' : 'family, sentinel_username and sentinel_password are';
    faults.push(`has parameters; only ${only} allowed, since others change the connection, TLS included`);
  }
  if (!['4', '6', undefined].includes(query.get('family')))
    faults.push('has a family that is neither 4 nor 6');

  const [name, ...rest] = topology === 'sentinel' ? path : ['', ...path];
  if (name === undefined)
    faults.push('does not name the primary; write its name at the sentinels as the path');
  const [database = '0', ...more] = rest;
  if (!/^\d{1,4}$/.test(database) || more.length > 0) faults.push('has a path that is not a database number');
  else if (topology === 'cluster' && Number(database) !== 0)
    faults.push('has a database number; a cluster has only 0');
  return faults;
}
