/** What the connection is for; a label in logs and metrics. */
export type RedisRole = 'limits' | 'cache';

/** The fields of INFO, such as `run_id`; none where this user may not ask. */
export type ServerInfo = ReadonlyMap<string, string>;

export function parseInfo(text: string): ServerInfo {
  return new Map(text.split('\r\n').map((line) => line.split(':', 2) as [string, string]));
}

/** What a person has to do about an error; undefined if only waiting helps. */
export function explainFailure(error: unknown): string | undefined {
  const { message = '', code = '' } = error as { message?: string; code?: string };
  return FIXES.find(([pattern]) => pattern.test(`${code} ${message}`))?.[1];
}

/** The first match holds. */
const FIXES: [pattern: RegExp, fix: string][] = [
  [
    /sentinel: .*(WRONGPASS|NOAUTH|invalid password|invalid username)/i,
    'The sentinels ask for a login of their own: write it as ?sentinel_password=… behind the URL.',
  ],
  [/WRONGPASS|NOAUTH|invalid (password|username)/i, 'The user or the password in the URL is wrong.'],
  [/\bOOM /, 'The server is full: raise maxmemory, or give the cache a server of its own with allkeys-lru.'],
  [
    /\bMISCONF /,
    'The server cannot save to its disk and refuses writes: free the disk, see the log of Redis.',
  ],
  [/\bREADONLY /, 'The server is a replica: write its primary in the URL, or finish the failover.'],
  [/\bNOREPLICAS /, 'The server has fewer replicas than min-replicas-to-write asks for: bring them back.'],
  [/NOPERM/, 'The user lacks a right: docs/redis.md has the line that gives it what this service needs.'],
  [/\bDENIED /, 'The server is in protected mode: give it a password and write that in the URL.'],
  [/DB index is out of range/, 'The database number in the URL does not exist on this server.'],
  [/No such master/, 'The path of the URL must be the NAME of "sentinel monitor NAME …" at the sentinels.'],
  [
    /unknown command.*sentinel/i,
    'The host is no sentinel: write the sentinels (26379), or redis:// for a server.',
  ],
  [/cluster support disabled/, 'The server is not part of a cluster: write redis:// in the URL.'],
  [/\bMOVED /, 'The server is one node of a cluster: write redis+cluster:// in the URL.'],
  [/\bCLUSTERDOWN /, 'The cluster has slots that no node serves: bring the lost nodes back.'],
  [
    /ERR_TLS_CERT_ALTNAME_INVALID/,
    'The certificate is for another host name: the URL, and what nodes announce, must have that name.',
  ],
  [/CERT_HAS_EXPIRED/, 'The certificate of the server has expired: renew it.'],
  [
    /CERT_|SELF_SIGNED|UNABLE_TO_(VERIFY|GET)|CERTIFICATE/i,
    'The certificate is not trusted or not valid: give its CA to Node with NODE_EXTRA_CA_CERTS.',
  ],
  [/EPROTO|wrong version number|ERR_SSL/i, 'The port does not speak TLS: write redis://, or the TLS port.'],
  [/ENOTFOUND|EAI_AGAIN/, 'The host name in the URL is not known to DNS.'],
  [
    /connect ETIMEDOUT/,
    'No response: host or port is wrong, a firewall is in between, or TLS (rediss://) not spoken there.',
  ],
  [/ECONNRESET|EPIPE/, 'If this repeats, the server expects TLS (rediss://), or maxclients is reached.'],
  [/Unknown RESP type/, 'What listens there is no Redis: check host and port in the URL.'],
  [/unknown command/i, 'The server lacks a command that is needed: Redis 6.2 or later, with scripts.'],
];

/** What is wrong with a server that can be used. */
export function findServerProblems(info: ServerInfo, role: RedisRole, topology: string): string[] {
  const version = info.get('redis_version') ?? '6.2';
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const mode = topology === 'single' ? info.get('redis_mode') : undefined;
  const policy = info.get('maxmemory_policy') ?? 'noeviction';
  const problems: [found: boolean, fix: string][] = [
    [major < 6 || (major === 6 && minor < 2), `The server is Redis ${version}; 6.2 or later is needed.`],
    [mode === 'cluster', 'The server is one node of a cluster: write redis+cluster:// in the URL.'],
    [mode === 'sentinel', 'The server is a sentinel: write redis+sentinel:// and the name of the primary.'],
    [
      role === 'limits' && policy !== 'noeviction' && hasMemoryLimit(info),
      `maxmemory-policy is ${policy}: a full server forgets limits. Use noeviction here and give the cache a server of its own.`,
    ],
  ];
  return problems.flatMap(([found, fix]) => (found ? [fix] : []));
}

/** What is wrong with two roles that are meant to have servers of their own, and share one. */
export function findSharedServer(limits: ServerInfo[], cache: ServerInfo[]): string | undefined {
  const ids = new Set(limits.map((info) => info.get('run_id')));
  const shared = cache.find((info) => info.has('run_id') && ids.has(info.get('run_id')));
  if (!shared || !hasMemoryLimit(shared) || shared.get('maxmemory_policy') !== 'noeviction') return undefined;
  return (
    'REDIS_CACHE_URL leads to the server of REDIS_URL, whose maxmemory-policy is noeviction: a cache that has ' +
    'filled it leaves no room for limits. Give the cache a server of its own, with allkeys-lru.'
  );
}

function hasMemoryLimit(info: ServerInfo): boolean {
  return Number(info.get('maxmemory') ?? 0) > 0;
}
