/** How to mend what went wrong, for the person who reads the log; undefined when waiting is all there is to do. */
export function explainFailure(error: unknown): string | undefined {
  const { message = '', code = '' } = error as { message?: string; code?: string };
  const known = FAILURES.find(({ pattern }) => pattern.test(`${code} ${message}`));
  return known?.mend;
}

/** What is wrong with the server itself, from its INFO. */
export function findServerProblems(info: string, role: 'limits' | 'cache'): string[] {
  const fields = new Map(info.split('\r\n').map((line) => line.split(':', 2) as [string, string]));
  const problems: string[] = [];
  const [major = 0, minor = 0] = (fields.get('redis_version') ?? '').split('.').map(Number);
  if (fields.has('redis_version') && (major < 6 || (major === 6 && minor < 2))) {
    problems.push(`The server is Redis ${fields.get('redis_version')}; 6.2 or later is needed.`);
  }
  const policy = fields.get('maxmemory_policy');
  if (
    role === 'limits' &&
    policy !== undefined &&
    policy !== 'noeviction' &&
    Number(fields.get('maxmemory')) > 0
  ) {
    problems.push(
      `maxmemory-policy is ${policy}: a full server forgets limits. Use noeviction here and give the cache a server of its own.`,
    );
  }
  return problems;
}

const FAILURES: { pattern: RegExp; mend: string }[] = [
  {
    pattern: /WRONGPASS|NOAUTH|invalid password|invalid username/i,
    mend: 'The user or the password in the URL is wrong.',
  },
  {
    pattern: /NOPERM/,
    mend: 'The user lacks a right: allow it the keys and channels of this service and the commands @read @write @scripting @pubsub @connection info.',
  },
  {
    pattern: /DB index is out of range/,
    mend: 'The database number at the end of the URL does not exist on this server; a cluster has only 0.',
  },
  {
    pattern: /ERR_TLS_CERT_ALTNAME_INVALID/,
    mend: 'The certificate is for another host name: write that name in the URL.',
  },
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
    pattern: /unknown command/i,
    mend: 'The server lacks a command that is needed: Redis 6.2 or later, with scripts.',
  },
];
