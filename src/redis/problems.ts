import type { ServerInfo } from './servers.ts';
import type { RedisTarget } from './url.ts';
import type { RedisRole } from './redis.ts';

/** How to mend what went wrong, for the person who reads the log; undefined when waiting is all there is to do. */
export function explainFailure(error: unknown): string | undefined {
  const { message = '', code = '' } = error as { message?: string; code?: string };
  const known = FAILURES.find(({ pattern }) => pattern.test(`${code} ${message}`));
  return known?.mend;
}

/** What is wrong with the server itself. */
export function findServerProblems(
  info: ServerInfo,
  role: RedisRole,
  topology: RedisTarget['topology'],
): string[] {
  const problems: string[] = [];
  const version = info.get('redis_version');
  const [major = 0, minor = 0] = (version ?? '').split('.').map(Number);
  if (version !== undefined && (major < 6 || (major === 6 && minor < 2))) {
    problems.push(`The server is Redis ${version}; 6.2 or later is needed.`);
  }
  if (topology === 'single' && info.get('redis_mode') === 'cluster') {
    problems.push('The server is one node of a cluster: write redis+cluster:// in the URL.');
  }
  if (topology === 'single' && info.get('redis_mode') === 'sentinel') {
    problems.push(
      'The server is a sentinel: write redis+sentinel:// and the name of the primary in the URL.',
    );
  }
  if (topology === 'single' && info.get('role') === 'slave') {
    problems.push('The server is a replica, which takes no writes: write its primary in the URL.');
  }
  const policy = info.get('maxmemory_policy') ?? 'noeviction';
  if (role === 'limits' && policy !== 'noeviction' && hasLimit(info)) {
    problems.push(
      `maxmemory-policy is ${policy}: a full server forgets limits. Use noeviction here and give the cache a server of its own.`,
    );
  }
  return problems;
}

/** What is wrong with two roles that are meant to have servers of their own, and share one. */
export function findSharedServer(limits: ServerInfo[], cache: ServerInfo[]): string | undefined {
  const ids = new Set(limits.map((info) => info.get('run_id')));
  const shared = cache.find((info) => info.has('run_id') && ids.has(info.get('run_id')));
  if (!shared || !hasLimit(shared) || shared.get('maxmemory_policy') !== 'noeviction') return undefined;
  return (
    'REDIS_CACHE_URL leads to the server of REDIS_URL, whose maxmemory-policy is noeviction: a cache that has ' +
    'filled it leaves no room for limits. Give the cache a server of its own, with allkeys-lru.'
  );
}

function hasLimit(info: ServerInfo): boolean {
  return Number(info.get('maxmemory') ?? 0) > 0;
}

/** Errors of a server that answers, and takes no writes. */
export const REFUSES_WRITES = /\b(OOM|MISCONF|READONLY|NOREPLICAS)\b/;

const FAILURES: { pattern: RegExp; mend: string }[] = [
  {
    pattern: /sentinel: .*(WRONGPASS|NOAUTH|invalid password|invalid username)/i,
    mend: 'The sentinels ask for a login of their own: write it as ?sentinel_password=… behind the URL.',
  },
  {
    pattern: /WRONGPASS|NOAUTH|invalid password|invalid username/i,
    mend: 'The user or the password in the URL is wrong.',
  },
  {
    pattern: /\bOOM /,
    mend: 'The server is full: raise maxmemory, or give the cache a server of its own with allkeys-lru.',
  },
  {
    pattern: /\bMISCONF /,
    mend: 'The server cannot save to its disk and refuses writes: free the disk, and see the log of Redis.',
  },
  {
    pattern: /\bREADONLY /,
    mend: 'The server is a replica, which takes no writes: write its primary in the URL, or finish the failover.',
  },
  {
    pattern: /\bNOREPLICAS /,
    mend: 'The server has fewer replicas than min-replicas-to-write asks for: bring them back.',
  },
  {
    pattern: /NOPERM/,
    mend: 'The user lacks a right: docs/redis.md has the line that gives it what this service needs.',
  },
  {
    pattern: /\bDENIED /,
    mend: 'The server is in protected mode: give it a password (requirepass, or an ACL) and write that in the URL.',
  },
  {
    pattern: /DB index is out of range/,
    mend: 'The database number at the end of the URL does not exist on this server; a cluster has only 0.',
  },
  {
    pattern: /No such master/,
    mend: 'The path of the URL must be the name that stands in "sentinel monitor NAME …" at the sentinels.',
  },
  {
    pattern: /unknown command.*sentinel/i,
    mend: 'The host is no sentinel: write the hosts and ports of the sentinels (26379), or redis:// for a server.',
  },
  {
    pattern: /cluster support disabled/,
    mend: 'The server is not part of a cluster: write redis:// in the URL.',
  },
  {
    pattern: /\bMOVED /,
    mend: 'The server is one node of a cluster: write redis+cluster:// in the URL.',
  },
  {
    pattern: /\bCLUSTERDOWN /,
    mend: 'The cluster has slots that no node serves: bring the lost nodes back, or see redis-cli --cluster check.',
  },
  {
    pattern: /ERR_TLS_CERT_ALTNAME_INVALID/,
    mend: 'The certificate is for another host name: write that name in the URL; nodes and primaries must be announced by it.',
  },
  { pattern: /CERT_HAS_EXPIRED/, mend: 'The certificate of the server has expired: renew it.' },
  {
    pattern: /CERT_|SELF_SIGNED|UNABLE_TO_(VERIFY|GET)|CERTIFICATE/i,
    mend: 'The certificate is not trusted or not valid: give its CA to Node with NODE_EXTRA_CA_CERTS.',
  },
  {
    pattern: /EPROTO|wrong version number|ERR_SSL/i,
    mend: 'The server does not speak TLS on this port: use redis:// or its TLS port.',
  },
  { pattern: /ENOTFOUND|EAI_AGAIN/, mend: 'The host name in the URL is not known to DNS.' },
  {
    pattern: /connect ETIMEDOUT/,
    mend: 'Nobody answers: host or port may be wrong, a firewall in between, or TLS (rediss://) not spoken there.',
  },
  {
    pattern: /ECONNRESET|EPIPE/,
    mend: 'If every connection ends so, the server expects TLS (rediss://), or has all its clients (maxclients).',
  },
  { pattern: /Unknown RESP type/, mend: 'What listens there is no Redis: look at host and port in the URL.' },
  {
    pattern: /unknown command/i,
    mend: 'The server lacks a command that is needed: Redis 6.2 or later, with scripts.',
  },
];
