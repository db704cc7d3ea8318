import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { Client } from 'pg';
import t from 'tap';
import { loadDotenv } from '../../src/cli/environment.ts';
import { ConfigError, loadConfig, type Config } from '../../src/config/config.ts';
import { SETTINGS, VARIABLES } from '../../src/config/variables.ts';
import { createToken } from '../../src/auth/token.ts';
import { redisOptions } from '../../src/redis/connection.ts';
import { parseRedisUrl, type RedisTarget } from '../../src/redis/url.ts';

type Env = Record<string, string | undefined>;

const DATABASE_URL = 'postgres://app:b4b7f1@postgres:5432/app';
const STRONG = 'kT3vQ9zR1xW8mB5nL0pY7cJ2hG6fD4sA';
const OTHER_STRONG = 'Zp8uV2eX6iN0qM4wC9rK1yT5bH7jF3gL';
const { token } = createToken('live');
const { token: otherToken } = createToken('live');

function load(env: Env): { config: Config; warnings: string[] } {
  // What Redis needs beside its URL.
  return loadConfig({ DATABASE_URL, EXPECTED_REPLICAS: '1', ...env });
}

/** The message with which the environment is refused; '' when it is accepted. */
function refusal(env: Env): string {
  try {
    load(env);
    return '';
  } catch (err) {
    if (err instanceof ConfigError) return err.message;
    throw err;
  }
}

t.test('a database URL is all that has to be set', async (t) => {
  const { config, warnings } = loadConfig({ DATABASE_URL });

  t.strictSame(warnings, []);
  t.strictSame(config, {
    http: {
      host: '0.0.0.0',
      port: 8000,
      metricsEnabled: true,
      metricsHost: '127.0.0.1',
      metricsPort: 9090,
      trustedProxies: [],
      enforceHttps: false,
      corsOrigins: [],
      corsAllowedHeaders: [],
      bodyLimitBytes: 10 * 1024 * 1024,
      requestTimeoutMs: 60_000,
      maxEventLoopDelayMs: 1000,
      docsEnabled: true,
    },
    log: { level: 'info', format: 'json', slowRequestMs: 3000 },
    auth: {
      required: true,
      bootstrapKeys: [],
      keyEnvironment: 'live',
      keySecret: '',
      secretKey: '',
      failuresPerMinute: 60,
    },
    rateLimit: {
      enabled: true,
      perMinute: 100,
      burst: 0,
      tenantPerMinute: 0,
      costs: { read: 1, write: 1, query: 1 },
      shadow: false,
      expectedReplicas: 1,
    },
    postgres: {
      url: DATABASE_URL,
      replicaUrl: undefined,
      migrationUrl: DATABASE_URL,
      poolMax: 20,
      poolWaitMs: 3000,
      queryTimeoutMs: 30_000,
      pgbouncer: false,
      maxRows: 100_000,
    },
    redis: { url: undefined, cacheUrl: undefined, commandTimeoutMs: 150 },
    cache: { enabled: true, ttlSeconds: 60, maxRows: 10_000 },
    idempotency: { ttlSeconds: 86_400 },
    lifecycle: { drainDelayMs: 5000, shutdownTimeoutMs: 30_000 },
    tracing: undefined,
  });
  t.match(refusal({ DATABASE_URL: undefined }), /DATABASE_URL is required/);
});

t.test('an empty variable counts as unset', async (t) => {
  const names = [...VARIABLES.keys()].filter((name) => name !== 'DATABASE_URL');
  const empty = Object.fromEntries(
    names.flatMap((name) => [
      [name, ''],
      [`${name}_FILE`, ''],
    ]),
  );

  t.strictSame(load(empty), load({}));
  t.match(refusal({ DATABASE_URL: '' }), /DATABASE_URL is required/);
});

t.test('the configuration cannot be changed, down to its lists', async (t) => {
  const { config } = load({ API_KEYS: token, CORS_ORIGINS: 'https://a.example' });

  t.throws(() => Object.assign(config, { auth: {} }), TypeError);
  t.throws(() => Object.assign(config.http, { port: 1 }), TypeError);
  t.throws(() => config.http.corsOrigins.push('https://b.example'), TypeError);
  t.throws(() => Object.assign(config.auth.bootstrapKeys[0] ?? {}, { tenant: 'b' }), TypeError);
});

t.test('values of the right form are read into their unit and type', async (t) => {
  const tracingOf = (config: Config) => config.tracing;
  const cases: [Env, (config: Config) => unknown, unknown][] = [
    [{ API_HOST: '::1' }, (c) => [c.http.host, c.http.metricsHost], ['::1', '127.0.0.1']],
    [{ API_PORT: '0', METRICS_PORT: '0' }, (c) => [c.http.port, c.http.metricsPort], [0, 0]],
    [{ METRICS_ENABLED: 'no', METRICS_PORT: '8000' }, (c) => c.http.metricsEnabled, false],
    [{ LOG_LEVEL: 'INFO' }, (c) => c.log.level, 'info'],
    [{ LOG_LEVEL: 'WARNING' }, (c) => c.log.level, 'warn'],
    [{ LOG_FORMAT: 'pretty' }, (c) => c.log.format, 'pretty'],
    [
      { TRUSTED_PROXIES: '10.0.0.0/8, 192.0.2.7,fd00::/8,::1' },
      (c) => c.http.trustedProxies,
      ['10.0.0.0/8', '192.0.2.7', 'fd00::/8', '::1'],
    ],
    [
      { CORS_ORIGINS: 'https://a.example,http://localhost:3000,http://127.0.0.1' },
      (c) => c.http.corsOrigins,
      ['https://a.example', 'http://localhost:3000', 'http://127.0.0.1'],
    ],
    [{ MAX_REQUEST_SIZE_MB: '0.5' }, (c) => c.http.bodyLimitBytes, 512 * 1024],
    [{ DRAIN_DELAY_SECONDS: '0.1' }, (c) => c.lifecycle.drainDelayMs, 100],
    [{ MAX_EVENT_LOOP_DELAY_MS: '0' }, (c) => c.http.maxEventLoopDelayMs, 0],
    [{ API_KEY_SECRET: STRONG }, (c) => c.auth.keySecret, STRONG],
    [
      { API_KEYS: `${token}, acme:${otherToken}` },
      (c) => c.auth.bootstrapKeys,
      [
        { tenant: 'default', token },
        { tenant: 'acme', token: otherToken },
      ],
    ],
    [
      { OTEL_SDK_DISABLED: 'true', OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector:4318' },
      tracingOf,
      undefined,
    ],
    [
      { OTEL_TRACES_EXPORTER: 'none', OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector:4318' },
      tracingOf,
      undefined,
    ],
    [
      { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector:4318/', OTEL_EXPORTER_OTLP_PROTOCOL: 'http/json' },
      tracingOf,
      { url: 'http://collector:4318/v1/traces', protocol: 'http/json', headers: {} },
    ],
    [
      {
        OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector:4318',
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'https://otlp.example.com/spans',
        OTEL_EXPORTER_OTLP_HEADERS: 'Authorization=Bearer%20abc%3D, x-org = 7',
      },
      tracingOf,
      {
        url: 'https://otlp.example.com/spans',
        protocol: 'http/protobuf',
        headers: { authorization: 'Bearer abc=', 'x-org': '7' },
      },
    ],
    [{ DATABASE_URL_REPLICA: DATABASE_URL }, (c) => c.postgres.replicaUrl, DATABASE_URL],
    [{ DATABASE_MIGRATION_URL: `${DATABASE_URL}2` }, (c) => c.postgres.migrationUrl, `${DATABASE_URL}2`],
    [{ REDIS_URL: 'redis://redis/1' }, (c) => c.redis.cacheUrl, 'redis://redis/1'],
    [
      { REDIS_URL: 'redis://redis', REDIS_CACHE_URL: 'redis://cache' },
      (c) => [c.redis.url, c.redis.cacheUrl],
      ['redis://redis', 'redis://cache'],
    ],
  ];
  for (const [env, pick, expected] of cases) {
    t.strictSame(pick(load(env).config), expected, JSON.stringify(env));
  }
  for (const text of ['true', 'TRUE', '1', 'yes', 'On']) {
    t.equal(load({ DATABASE_PGBOUNCER: text }).config.postgres.pgbouncer, true, text);
  }
  for (const text of ['false', 'False', '0', 'NO', 'off']) {
    t.equal(load({ CACHE_ENABLED: text }).config.cache.enabled, false, text);
  }
});

t.test('each value of the wrong form is refused with its name and the reason', async (t) => {
  const forged = /would let every client forge X-Forwarded-For/;
  const cases: [string, string, RegExp][] = [
    ...['80a', '1e3', '0x10', '8 0', '-1', '+1', '08', '1.5', 'NaN'].map((text): [string, string, RegExp] => [
      'API_PORT',
      text,
      /is not a whole number/,
    ]),
    ['API_PORT', '65536', /is more than 65535/],
    ['API_PORT', 'tcp://10.0.0.1:8000', /enableServiceLinks: false/],
    ['CONNECTION_POOL_SIZE', '0', /is less than 1/],
    ['CONNECTION_POOL_SIZE', '501', /is more than 500/],
    ['RATE_LIMIT_PER_MINUTE', '0', /is less than 1/],
    ['RATE_LIMIT_PER_MINUTE', '10000001', /is more than 10000000/],
    ['MAX_REQUEST_SIZE_MB', '101', /is more than 100/],
    ['MAX_REQUEST_SIZE_MB', '10MB', /is not a plain number/],
    ['QUERY_TIMEOUT_SECONDS', '.5', /is not a plain number/],
    ['QUERY_TIMEOUT_SECONDS', '0', /is less than 0.1/],
    ['API_HOST', 'example.com', /is not an IP address/],
    ['METRICS_HOST', 'example.com', /is not an IP address/],
    ['CACHE_ENABLED', 'ja', /is neither true nor false/],
    ['LOG_LEVEL', 'loud', /is not in the list/],
    ['LOG_FORMAT', 'xml', /is not in the list/],
    ['API_KEY_ENVIRONMENT', 'LIVE', /does not have the right form/],
    ['API_KEY_ENVIRONMENT', 'a', /does not have the right form/],

    ['TRUSTED_PROXIES', 'true', forged],
    ['TRUSTED_PROXIES', '*', forged],
    ['TRUSTED_PROXIES', '1', /"1" is a hop count/],
    ['TRUSTED_PROXIES', '0.0.0.0/0', forged],
    ['TRUSTED_PROXIES', '10.0.0.1/0', forged],
    ['TRUSTED_PROXIES', '10.0.0.0/8,::/0', forged],
    ['TRUSTED_PROXIES', '128.0.0.0/1', forged],
    ['TRUSTED_PROXIES', '::ffff:0:0/96', /write the IPv4 address/],
    ['TRUSTED_PROXIES', 'proxy.internal', /is not an IP address or CIDR network/],
    ['TRUSTED_PROXIES', 'loopback', /is not an IP address or CIDR network/],
    ['TRUSTED_PROXIES', '10.0.0.0/33', /has no valid prefix length/],
    ['TRUSTED_PROXIES', '10.0.0.0/255.0.0.0', /has no valid prefix length/],
    ['TRUSTED_PROXIES', '10.0.0.0/8/8', /has no valid prefix length/],
    ['TRUSTED_PROXIES', 'fe80::1%eth0', /is not an IP address or CIDR network/],
    ['TRUSTED_PROXIES', '10.0.0.0/', /has no valid prefix length/],

    ['CORS_ORIGINS', '*', /is a wildcard/],
    ['CORS_ORIGINS', 'https://*.example.com', /is a wildcard/],
    ['CORS_ORIGINS', 'null', /sandboxed pages/],
    ['CORS_ORIGINS', 'https://a.example/', /is not what a browser sends, which is https:\/\/a\.example\n/],
    ['CORS_ORIGINS', 'https://a.example/path', /is not what a browser sends/],
    ['CORS_ORIGINS', 'https://A.example', /is not what a browser sends/],
    ['CORS_ORIGINS', 'https://a.example:443', /is not what a browser sends/],
    ['CORS_ORIGINS', 'http://a.example', /is not encrypted/],
    ['CORS_ORIGINS', 'http://localhost.a.example', /is not encrypted/],
    ['CORS_ORIGINS', 'a.example', /is not an origin/],
    ['CORS_ORIGINS', 'ftp://a.example', /is not an origin/],
    ['CORS_ALLOWED_HEADERS', '*', /is not the name of a header/],
    ['CORS_ALLOWED_HEADERS', 'x-a,x b', /is not the name of a header/],

    ...['your-strong-key-1', 'changeme', 'internal-admin-key'].map((text): [string, string, RegExp] => [
      'API_KEYS',
      text,
      /entry 1 is a placeholder[^]*npm run api-key -- create/,
    ]),
    ['API_KEYS', `${token},hp_live_abc`, /entry 2 is not a key of this service/],
    ['API_KEYS', `${token.slice(0, -1)}~`, /entry 1 is not a key of this service/],
    ['API_KEYS', `${token},acme:${token}`, /entry 2 repeats the key of entry 1/],
    ['API_KEYS', `A B:${token}`, /entry 1 names a tenant that is not/],
    ['API_KEYS', `:${token}`, /entry 1 names a tenant that is not/],

    ['API_KEY_SECRET', 'kT3vQ9zR1xW8mB5nL0pY7cJ2hG6fD4s', /is shorter than 32 characters/],
    ['API_KEY_SECRET', 'change-me-to-something-of-32-characters', /is a placeholder/],
    ['API_KEY_SECRET', 'your-secret-key-here-your-secret-key', /is a placeholder/],
    ['API_KEY_SECRET', 'a'.repeat(40), /has fewer than 10 different characters/],
    ['SECRET_KEY', '12345678'.repeat(5), /has fewer than 10 different characters/],
    ['SECRET_KEY', '0123456789'.repeat(4), /is one short text, repeated/],

    ['OTEL_EXPORTER_OTLP_ENDPOINT', 'collector:4318', /is not a URL of http/],
    ['OTEL_EXPORTER_OTLP_ENDPOINT', 'grpc://collector:4317', /is not a URL of http/],
    ['OTEL_EXPORTER_OTLP_ENDPOINT', 'http://collector:4318?a=b', /has more than a path/],
    ['OTEL_EXPORTER_OTLP_ENDPOINT', 'http://otlp.example.com', /leaves the private network without TLS/],
    ['OTEL_EXPORTER_OTLP_TRACES_ENDPOINT', 'http://a:b@collector/v1', /holds a login/],
    ['OTEL_EXPORTER_OTLP_PROTOCOL', 'grpc', /is not in the list[^]*http\/protobuf, http\/json/],
    ['OTEL_EXPORTER_OTLP_HEADERS', 'a=b,c', /entry 2 is not name=value/],
    ['OTEL_EXPORTER_OTLP_HEADERS', 'a=%0d%0a', /entry 1 is not percent-encoded text/],
  ];
  for (const [name, text, reason] of cases) {
    const message = refusal({ [name]: text });
    t.match(message, new RegExp(`^${name} `, 'm'), `${name}=${text} is named`);
    t.match(message, reason, `${name}=${text}`);
    t.match(
      message,
      new RegExp(`^ {2}allowed: .+\n {2}example: ${name}=.+`, 'm'),
      `${name}=${text} is explained`,
    );
  }
});

t.test('a database that leaves the private network is reached with verified TLS only', async (t) => {
  const accepted = [
    'postgres://app@postgres/app',
    'postgresql://app:x1@db-1.default.svc.cluster.local/app',
    'postgres://app:x1@db.default.svc/app',
    'postgres://app:x1@db.internal/app?sslmode=disable',
    'postgres://app:x1@10.1.2.3/app',
    'postgres://app:x1@[fd00::1]:5432/app',
    'postgres://app:x1@172.31.0.1/app?sslmode=verify-full',
    'postgres://app:x1@db.example.com/app?sslmode=verify-full',
    'postgres://app:x1@db.example.com/app?sslmode=verify-full&sslrootcert=system',
    'postgres://app:changeme@127.0.0.1/app',
    'postgres://app:password@localhost/app?sslmode=no-verify&uselibpqcompat=true',
    'postgres://app:example@[::1]/app',
    'postgres://%2Fvar%2Frun%2Fpostgresql/app',
    'postgres://app@/app?host=/var/run/postgresql',
    'postgres:///app?host=/var/run/postgresql',
  ];
  for (const url of accepted) t.equal(refusal({ DATABASE_URL: url }), '', url);

  const plain = /leaves the private network without TLS; write sslmode=verify-full$/m;
  const refused: [string, RegExp][] = [
    ['postgres://app:x1@db.example.com/app', plain],
    ['postgres://app:x1@db.example.com/app?sslmode=disable', plain],
    ['postgres://app:x1@203.0.113.5/app', plain],
    ['postgres://app:x1@134744072/app', plain],
    ['postgres://app:x1@172.32.0.1/app', plain],
    ['postgres://app:x1@[2001:db8::1]/app', plain],
    ['postgres://app:x1@localhost/app?host=db.example.com', plain],
    ['postgres://app:x1@svc.example.com/app', plain],
    ...['require', 'prefer', 'verify-ca'].map((mode): [string, RegExp] => [
      `postgres://app:x1@postgres/app?sslmode=${mode}`,
      /pg 8 reads as verify-full and pg 9 weakens; write sslmode=verify-full$/m,
    ]),
    ['postgres://app:x1@postgres/app?sslmode=no-verify', /does not verify the server/],
    ['postgres://app:x1@db.example.com/app?sslmode=allow', /does not verify the server/],
    ['postgres://app:x1@postgres/app?sslmode=verify_full', /unknown sslmode/],
    ['postgres://app:x1@db.example.com/app?sslmode=verify-full&uselibpqcompat=true', /has uselibpqcompat/],
    ['postgres://app:x1@postgres/app?ssl=no-verify', /has ssl,/],
    ['postgres://app:x1@a.example/app?sslmode=verify-full&sslmode=disable', /repeats a parameter/],
    ['postgres://app:x1@postgres/app?sslrootcert=/nowhere/ca.pem', /sslrootcert.*\/nowhere\/ca\.pem.*ENOENT/],
    ['postgres://app:x1@postgres/app?statement_timeout=0', /QUERY_TIMEOUT_SECONDS decides/],
    ['postgres://app:x1@a:5432,b:5432/app', /several hosts.*HAProxy or PgBouncer/],
    ['postgres://app:x1@a,b/app?sslmode=verify-full', /several hosts/],
    ['postgres://app:x1@/app?host=a,b', /several hosts/],
    ['postgres://app:x1@postgres/app?target_session_attrs=read-write', /target_session_attrs.*leave it out/],
    ['postgres://app:x1@postgres', /names no database/],
    ['postgres://app:x1@/app', /names no host/],
    ['mysql://app:x1@postgres/app', /has the wrong scheme/],
    ['POSTGRES://app:x1@postgres/app', /has the wrong scheme/],
    ['app:x1@postgres/app', /has the wrong scheme/],
    ['postgres://app:x#1@postgres/app', /percent-encoded/],
    ['postgres://app:x%1@postgres/app', /percent-encoded/],
    ['postgres://app:1/x@postgres/app', /percent-encoded/],
    ['postgres://app:x 1@postgres/app', /percent-encoded/],
    ...['changeme', 'password', 'change-me', 'your-password', '%3Cpassword%3E', 'example'].map(
      (password): [string, RegExp] => [
        `postgres://app:${password}@postgres/app`,
        /placeholder for a password/,
      ],
    ),
    ['postgres://app@postgres/app?password=changeme', /placeholder for a password/],
  ];
  for (const [url, reason] of refused) {
    for (const name of ['DATABASE_URL', 'DATABASE_URL_REPLICA', 'DATABASE_MIGRATION_URL']) {
      t.match(refusal({ [name]: url }), reason, `${name}=${url}`);
    }
  }
});

t.test('a Redis that leaves the private network is reached with verified TLS only', async (t) => {
  const accepted = [
    'redis://redis:6379',
    'redis://:x1@localhost/0',
    'redis://user:x1@10.0.0.1:6380/15',
    'redis://:changeme@127.0.0.1/',
    'rediss://:x1@cache.example.com:6380/0?family=6',
    'redis+sentinel://:x1@s1,s2:26380,[fd00::1]/main/2?sentinel_username=u&sentinel_password=x2',
    'rediss+sentinel://u:x1@s1.example.com/main',
    'redis+cluster://c1:7000,10.0.0.2:7000,c3',
    'rediss+cluster://u:x1@c1.example.com:7000,c2.example.com/0?family=4',
  ];
  for (const url of accepted) t.equal(refusal({ REDIS_URL: url }), '', url);

  const refused: [string, RegExp][] = [
    ['redis://:x1@cache.example.com:6379/0', /without TLS; begin it with rediss instead of redis$/m],
    ['rediss://:x1@cache.example.com/0?tls=', /has parameters; only family is allowed/],
    ['rediss://:x1@cache.example.com/0?rejectUnauthorized=false', /only family is allowed/],
    ['redis://redis/zero', /is not a database number/],
    ['redis://redis/-1', /is not a database number/],
    ['redis://redis/1.5', /is not a database number/],
    ['http://redis:6379', /has the wrong scheme/],
    ['REDISS://cache.example.com', /has the wrong scheme/],
    ['redis:6379', /has the wrong scheme/],
    ['/run/redis.sock', /has the wrong scheme/],
    ['redis://:your-password@redis', /placeholder for a password/],
    ['redis://redis?family=5', /neither 4 nor 6/],
    ['redis://:x1@redis:99999', /cannot be read/],
    ['redis://[::x]', /cannot be read/],
    ['redis:///0', /names no host/],
    ['redis+tls://redis', /has the wrong scheme/],
    ['redis://r1,r2', /has several hosts; that is for redis\+sentinel:\/\/ and redis\+cluster:\/\//],
    ['redis+sentinel://s1,s2', /does not name the primary/],
    ['redis+sentinel://s1/main/one', /is not a database number/],
    ['redis+sentinel://s1/main/1/2', /is not a database number/],
    [
      'redis+sentinel://s1/main?password=x1',
      /only family, sentinel_username and sentinel_password are allowed/,
    ],
    ['redis+sentinel://s1/main?sentinel_password=changeme', /placeholder for a password/],
    ['redis+cluster://c1/1', /has a database number; a cluster has only 0/],
    ['redis+cluster://c1,,c3', /cannot be read/],
    ['redis+cluster://c1?sentinel_password=x1', /only family is allowed/],
    ['redis+cluster://:x1@c1,c2.example.com:7000', /without TLS; begin it with rediss instead of redis$/m],
  ];
  for (const [url, reason] of refused) {
    for (const name of ['REDIS_URL', 'REDIS_CACHE_URL']) t.match(refusal({ [name]: url }), reason, url);
  }
});

t.test('the drivers read the accepted URLs as the checks did', async (t) => {
  const remote = 'postgres://app:x1@db.example.com/app?sslmode=verify-full';
  const client = new Client(load({ DATABASE_URL: remote }).config.postgres.url);
  t.equal(client.host, 'db.example.com');
  t.strictSame(client.ssl, {}, 'nothing loosens the verification, which is on by default');
  for (const url of [
    'postgres://app@/app?host=/run/pg',
    'postgres:///app?host=/run/pg',
    'postgres://%2Frun%2Fpg/app',
  ]) {
    t.equal(new Client(load({ DATABASE_URL: url }).config.postgres.url).host, '/run/pg', url);
  }

  const { url = '' } = load({ REDIS_URL: 'rediss://:x%2F1@cache.example.com:6380/2?family=6' }).config.redis;
  const { options } = new Redis({ ...redisOptions(readRedis(url), 150, 'test'), lazyConnect: true });
  const read = { host: 'cache.example.com', port: 6380, db: 2, family: 6, password: 'x/1', tls: {} };
  t.match(options, read);
  t.strictSame(readRedis('redis+sentinel://u:x1@s1,[::1]:1/main/2?sentinel_password=a+b%3D'), {
    topology: 'sentinel',
    tls: false,
    hosts: [
      { host: 's1', port: 26_379 },
      { host: '::1', port: 1 },
    ],
    username: 'u',
    password: 'x1',
    database: 2,
    family: 0,
    sentinel: { name: 'main', username: '', password: 'a+b=' },
  });
  t.match(readRedis('rediss+cluster://c1.example.com,c2.example.com:7000'), {
    topology: 'cluster',
    tls: true,
    hosts: [
      { host: 'c1.example.com', port: 6379 },
      { host: 'c2.example.com', port: 7000 },
    ],
  });
});

function readRedis(url: string): RedisTarget {
  const target = parseRedisUrl(url, (reason) => t.fail(`${url} ${reason}`));
  if (!target) throw new Error('refused');
  return target;
}

t.test('values that contradict each other are refused', async (t) => {
  const cases: [Env, RegExp | ''][] = [
    [{ METRICS_PORT: '8000' }, /^METRICS_PORT is the same as API_PORT$/m],
    [{ AUTH_REQUIRED: 'false' }, /^AUTH_REQUIRED is false while API_HOST is 0\.0\.0\.0/m],
    [{ AUTH_REQUIRED: 'false', API_HOST: '10.0.0.1' }, /no loopback address/],
    [{ AUTH_REQUIRED: 'false', API_HOST: '127.0.0.1' }, ''],
    [{ AUTH_REQUIRED: 'false', API_HOST: '::1' }, ''],
    [{ AUTH_REQUIRED: 'false', API_HOST: 'localhost' }, ''],
    [{ ENFORCE_HTTPS: 'true' }, /^TRUSTED_PROXIES is needed with ENFORCE_HTTPS/m],
    [{ ENFORCE_HTTPS: 'true', TRUSTED_PROXIES: '10.0.0.0/8' }, ''],
    [
      { API_KEYS: token, API_KEY_ENVIRONMENT: 'test' },
      /^API_KEYS entry 1 is not of the API_KEY_ENVIRONMENT test$/m,
    ],
    [{ API_KEYS: createToken('test').token, API_KEY_ENVIRONMENT: 'test' }, ''],
    [{ API_KEY_SECRET: STRONG, SECRET_KEY: STRONG }, /^SECRET_KEY is the same as API_KEY_SECRET/m],
    [{ API_KEY_SECRET: STRONG, SECRET_KEY: OTHER_STRONG }, ''],
    [{ RATE_LIMIT_BURST: '101' }, /^RATE_LIMIT_BURST is more than RATE_LIMIT_PER_MINUTE, which is 100$/m],
    [{ RATE_LIMIT_BURST: '100' }, ''],
    [
      { REDIS_COMMAND_TIMEOUT_MS: '3000' },
      /^REDIS_COMMAND_TIMEOUT_MS \(3000 ms\) must be less than POOL_WAIT_TIMEOUT_MS \(3000 ms\)$/m,
    ],
    [
      { POOL_WAIT_TIMEOUT_MS: '31000' },
      /^POOL_WAIT_TIMEOUT_MS \(31000 ms\) must be less than QUERY_TIMEOUT_SECONDS \(30000 ms\)$/m,
    ],
    [
      { QUERY_TIMEOUT_SECONDS: '60' },
      /^QUERY_TIMEOUT_SECONDS \(60000 ms\) must be less than REQUEST_TIMEOUT_SECONDS \(60000 ms\)$/m,
    ],
    [{ QUERY_TIMEOUT_SECONDS: '3.5', REQUEST_TIMEOUT_SECONDS: '3.6' }, ''],
    [
      { DATABASE_URL_REPLICA: DATABASE_URL, EXPECTED_REPLICAS: '2' },
      /^REDIS_URL is needed with DATABASE_URL_REPLICA/m,
    ],
    [{ DATABASE_URL_REPLICA: DATABASE_URL, EXPECTED_REPLICAS: '2', REDIS_URL: 'redis://redis' }, ''],
    [{ DATABASE_URL_REPLICA: DATABASE_URL }, ''],
    ...['REDIS_URL', 'REDIS_CACHE_URL'].map((name): [Env, RegExp] => [
      { [name]: 'redis://redis', EXPECTED_REPLICAS: '' },
      /^EXPECTED_REPLICAS is needed with REDIS_URL[^]*how many processes[^]*example: EXPECTED_REPLICAS=/m,
    ]),
    [{ EXPECTED_REPLICAS: '' }, ''],
    [{ NODE_TLS_REJECT_UNAUTHORIZED: '0' }, /^NODE_TLS_REJECT_UNAUTHORIZED switches off/m],
    [{ NODE_TLS_REJECT_UNAUTHORIZED: '1' }, ''],
  ];
  for (const [env, reason] of cases) {
    const message = refusal(env);
    if (reason === '') t.equal(message, '', JSON.stringify(env));
    else t.match(message, reason, JSON.stringify(env));
  }
});

t.test('every broken step of the timeout ladder is told', async (t) => {
  const message = refusal({ POOL_WAIT_TIMEOUT_MS: '100', QUERY_TIMEOUT_SECONDS: '90' });

  t.match(message, /REDIS_COMMAND_TIMEOUT_MS \(150 ms\) must be less than POOL_WAIT_TIMEOUT_MS \(100 ms\)/);
  t.match(
    message,
    /QUERY_TIMEOUT_SECONDS \(90000 ms\) must be less than REQUEST_TIMEOUT_SECONDS \(60000 ms\)/,
  );
});

t.test(
  'all problems are told at once, each with what was given, what is allowed and an example',
  async (t) => {
    const message = refusal({
      DATABASE_URL: undefined,
      DATABSE_URL: DATABASE_URL,
      API_PORT: '80a',
      LOG_LEVEL: 'loud',
      TRUSTED_PROXIES: 'true,proxy',
      API_KEY_SECRET: 'short',
      METRICS_ENABLED: 'perhaps',
      RATE_LIMIT_BURST: '500',
    });

    t.match(message, /^Bad configuration: 7 problems\n/);
    for (const name of [
      'API_PORT',
      'METRICS_ENABLED',
      'TRUSTED_PROXIES',
      'LOG_LEVEL',
      'API_KEY_SECRET',
      'DATABASE_URL',
      'RATE_LIMIT_BURST',
    ]) {
      t.match(
        message,
        new RegExp(`^${name} .+\n {2}given: {3}.+\n {2}allowed: .+\n {2}example: ${name}=`, 'm'),
        name,
      );
    }
    t.match(message, /"true" would[^\n]*"proxy" is not an IP/, 'all parts of a list are told');
    t.match(message, /given: {3}"80a"\n/);
    t.match(message, /given: {3}\(a value of 5 characters, not shown\)/);
    t.match(message, /given: {3}nothing\n/);
    t.match(message, /did you mean DATABASE_URL\?/, 'the likely cause is told along');
  },
);

t.test('no secret is ever in a message, wherever it stands', async (t) => {
  const canary = 'Canary7731';
  const urls = [
    `postgres://app:${canary}@db.example.com/app?sslmode=require`,
    `postgres://${canary}@db.example.com/app`,
    `postgres://app:1/${canary}@db.example.com/app`,
    `postgres://app:1?${canary}@db.example.com/app`,
    `postgres://app:1#${canary}@db.example.com/app`,
    `postgres://app:a@${canary}@db.example.com/app`,
    `postgres://app:${canary}@/app`,
    `postgres://app:${canary}%@db.example.com/app`,
    `postgres://app@db.example.com/app?password=${canary}&sslmode=require`,
    `postgres://app@db.example.com/app?sslpassword=${canary}`,
    `postgres:app:${canary}@db.example.com/app`,
    `app:${canary}@db.example.com/app`,
    `mysql://app:${canary}@db.example.com/app`,
    `redis://:${canary}@cache.example.com/0`,
    `redis://${canary}@cache.example.com/0`,
    `redis://:${canary}`,
    `redis://:1/${canary}@cache.example.com`,
    `rediss://cache.example.com/0?password=${canary}`,
    `redis+sentinel://:${canary}@s1.example.com,s2/main?sentinel_password=${canary}`,
    `redis+sentinel://${canary}@s1,s2?sentinel_username=${canary}&other=${canary}`,
    `redis+cluster://:1,${canary}@c1.example.com`,
    `redis+cluster://:1/${canary}@c1`,
    `redis+cluster://c1,:${canary}`,
    ` redis://:${canary}@redis/0`,
    `"redis://:${canary}@redis/0"`,
    `/app:${canary}@db.example.com/app`,
    canary,
  ];
  const secrets = [...VARIABLES.values()].filter(({ secret }) => secret).map(({ name }) => name);
  t.strictSame(secrets, [
    'API_KEYS',
    'API_KEY_SECRET',
    'SECRET_KEY',
    'DATABASE_URL',
    'DATABASE_URL_REPLICA',
    'DATABASE_MIGRATION_URL',
    'REDIS_URL',
    'REDIS_CACHE_URL',
    'OTEL_EXPORTER_OTLP_ENDPOINT',
    'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT',
    'OTEL_EXPORTER_OTLP_HEADERS',
  ]);
  const file = join(t.testdir({ secret: '' }), 'secret');
  for (const name of secrets) {
    for (const text of urls) {
      writeFileSync(file, text);
      for (const env of [
        { [name]: text, API_PORT: 'x' },
        { DATABASE_URL: undefined, [`${name}_FILE`]: text },
        { [name]: text, [`${name}_FILE`]: text },
        { [name]: undefined, [`${name}_FILE`]: file, API_PORT: 'x' },
      ]) {
        const message = refusal(env);
        t.not(message, '', `${name}: ${text}`);
        t.notMatch(message, canary.slice(0, 6), `${name}: ${text}`);
      }
    }
  }
  t.notMatch(load({ DATABASE_ULR: canary }).warnings.join(), canary, 'a mistyped name shows no value either');
});

t.test('a secret can come from a file', async (t) => {
  const dir = t.testdir({
    url: `${DATABASE_URL}\n`,
    windows: `${DATABASE_URL}\r\n`,
    bare: DATABASE_URL,
    two: `${DATABASE_URL}\n\nx`,
    empty: '\n',
    key: STRONG,
  });
  const file = (name: string): Env => ({ DATABASE_URL: undefined, DATABASE_URL_FILE: join(dir, name) });
  mkdirSync(join(dir, 'folder'));

  for (const name of ['url', 'windows', 'bare']) {
    t.equal(load(file(name)).config.postgres.url, DATABASE_URL, name);
  }
  t.equal(load({ SECRET_KEY_FILE: join(dir, 'key') }).config.auth.secretKey, STRONG);
  t.match(refusal(file('two')), `${join(dir, 'two')} has more than one line; write one`);
  t.match(refusal(file('empty')), `${join(dir, 'empty')} is empty`);
  t.match(refusal(file('missing')), `${join(dir, 'missing')} cannot be read (ENOENT)`);
  t.match(refusal(file('folder')), `${join(dir, 'folder')} is not a file`);
  t.match(refusal({ DATABASE_URL_FILE: join(dir, 'url') }), /DATABASE_URL is set twice/);
  t.match(
    refusal({ REDIS_URL_FILE: join(dir, 'url') }),
    `REDIS_URL has the wrong scheme
  given:   the file ${join(dir, 'url')}, by REDIS_URL_FILE`,
  );
  t.match(refusal({ API_PORT_FILE: join(dir, 'url') }), /API_PORT cannot come from a file.*secrets only/);
});

t.test('a value is the same however it arrives, and what is odd is refused by name', async (t) => {
  const file = join(t.testdir({ secret: '' }), 'secret');
  for (const before of ['', '\uFEFF', ' ', '\uFEFF\t']) {
    for (const after of ['', '\n', '\r\n', '\n\n', ' ', ' \t\r\n']) {
      const text = before + STRONG + after;
      writeFileSync(file, text);
      t.equal(load({ API_KEY_SECRET: text }).config.auth.keySecret, STRONG, JSON.stringify(text));
      t.equal(
        load({ API_KEY_SECRET_FILE: file }).config.auth.keySecret,
        STRONG,
        `${JSON.stringify(text)} in a file`,
      );
    }
  }
  t.equal(load({ API_PORT: '8080\r\n' }).config.http.port, 8080, 'no secret, as well');
  t.equal(load({ API_PORT: ' ' }).config.http.port, 8000, 'blank is unset');
  t.equal(load({ SECRET_KEY_FILE: `${file}\r` }).config.auth.secretKey, STRONG);

  const odd: [Buffer, RegExp][] = [
    [Buffer.from(`${STRONG}\nsecond`), /has more than one line; write one/],
    [Buffer.from(`${STRONG}\rsecond`), /has more than one line/],
    [Buffer.from(`${STRONG}\0`), /is not UTF-8 text; save it as UTF-8/],
    [Buffer.from(STRONG, 'utf16le'), /is not UTF-8 text/],
    [Buffer.from(`\uFEFF${STRONG}`, 'utf16le'), /is not UTF-8 text/],
    [Buffer.from(`${STRONG}\xe9`, 'latin1'), /is not UTF-8 text/],
    [Buffer.from(`${STRONG}\tx`), /holds a control character/],
    [Buffer.from(`\uFEFF\uFEFF${STRONG}`), /holds a control character/],
  ];
  for (const [bytes, reason] of odd) {
    writeFileSync(file, bytes);
    t.match(refusal({ API_KEY_SECRET_FILE: file }), reason);
    t.match(
      refusal({ API_KEY_SECRET_FILE: file }),
      `API_KEY_SECRET cannot be read from API_KEY_SECRET_FILE: ${file} `,
    );
    const asVariable = refusal({ API_KEY_SECRET: bytes.toString() });
    t.match(asVariable, reason);
    t.match(asVariable, /^API_KEY_SECRET /m);
    t.notMatch(asVariable, STRONG.slice(0, 6));
  }
});

t.test('.env is read with a byte order mark, CRLF and export; the environment has precedence', async (t) => {
  const folder = t.testdir({
    '.env': '\uFEFFDATABASE_URL = a\r\nexport LOG_LEVEL=warn # as usual\r\nAPI_PORT=1\r\n',
  });
  const env: Env = { API_PORT: '2' };
  loadDotenv(folder, env);
  t.strictSame(env, { API_PORT: '2', DATABASE_URL: 'a', LOG_LEVEL: 'warn' });
  writeFileSync(join(folder, '.env'), 'API_PORT=1', 'utf16le');
  t.throws(() => loadDotenv(folder, {}), { message: /\.env is not UTF-8 text: save it as UTF-8/ });
});

t.test('a secret file that may not be read is named, and its content is not', async (t) => {
  const path = join(t.testdir({ secret: STRONG }), 'secret');
  chmodSync(path, 0o000);
  // Root may read everything: for a moment this process is nobody.
  const wasRoot = process.geteuid?.() === 0;
  if (wasRoot) process.seteuid?.(65534);
  try {
    t.match(refusal({ SECRET_KEY_FILE: path }), `${path} cannot be read (EACCES)`);
  } finally {
    if (wasRoot) process.seteuid?.(0);
  }
});

/** Of the SDK, which reads them itself. */
const OTEL_NAMES = [
  'OTEL_SERVICE_NAME',
  'OTEL_RESOURCE_ATTRIBUTES',
  'OTEL_TRACES_SAMPLER',
  'OTEL_TRACES_SAMPLER_ARG',
  'OTEL_METRICS_EXPORTER',
  'OTEL_LOGS_EXPORTER',
  'OTEL_PROPAGATORS',
  'OTEL_BSP_SCHEDULE_DELAY',
  'OTEL_BSP_EXPORT_TIMEOUT',
  'OTEL_BSP_MAX_QUEUE_SIZE',
  'OTEL_BSP_MAX_EXPORT_BATCH_SIZE',
  'OTEL_ATTRIBUTE_COUNT_LIMIT',
  'OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT',
  'OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT',
  'OTEL_EXPORTER_OTLP_TIMEOUT',
  'OTEL_EXPORTER_OTLP_COMPRESSION',
  'OTEL_EXPORTER_OTLP_CERTIFICATE',
  'OTEL_EXPORTER_OTLP_CLIENT_KEY',
  'OTEL_EXPORTER_OTLP_METRICS_ENDPOINT',
  'OTEL_EXPORTER_OTLP_LOGS_ENDPOINT',
  'OTEL_EXPORTER_OTLP_TRACES_HEADERS',
  'OTEL_EXPORTER_OTLP_TRACES_PROTOCOL',
  'OTEL_LOG_LEVEL',
  'OTEL_NODE_RESOURCE_DETECTORS',
  'OTEL_SEMCONV_STABILITY_OPT_IN',
];

t.test('a mistyped variable is warned about, a foreign one is not', async (t) => {
  const typos: [string, RegExp][] = [
    ['RATE_LIMIT_PER_MINUT', /^RATE_LIMIT_PER_MINUT is not .*did you mean RATE_LIMIT_PER_MINUTE\?$/],
    ['API_KEY', /did you mean API_KEYS\?$/],
    ['RDIS_URL', /did you mean REDIS_URL\?$/],
    ['api_port', /did you mean API_PORT\?$/],
    ['DATABASE_URL_FIEL', /did you mean DATABASE_URL_FILE\?$/],
    ['REDIS_PASSWORD', /^REDIS_PASSWORD is not a variable of this service and has no effect$/],
    ['LOG_FILE', /^LOG_FILE is not a variable/],
    ['OTEL_EXPORTER_OTLP_ENDPONT', /did you mean OTEL_EXPORTER_OTLP_ENDPOINT\?$/],
  ];
  for (const [name, warning] of typos) t.match(load({ [name]: 'x' }).warnings, [warning], name);

  const foreign: Env = {
    CI: '1',
    DEV_STATE_DIR: '/x',
    DEV_WATCH: '1',
    HTTP_PROXY: 'x',
    KUBERNETES_PORT: 'tcp://10.0.0.1',
    LOGNAME: 'me',
    MAX_OLD_SPACE_SIZE: '1',
    NODE_ENV: 'production',
    NODE_OPTIONS: '--x',
    PATH: '/bin',
    PGHOST: 'x',
    PGPASSWORD: 'x',
    PORT: '1',
    POSTGRES_PASSWORD: 'x',
    QUERY_STRING: 'x',
    REDIS_PORT: 'tcp://10.0.0.1:6379',
    REDIS_PORT_6379_TCP_ADDR: '10.0.0.1',
    REDIS_SERVICE_HOST: '10.0.0.1',
    REDIS_TYPO_BUT_EMPTY: '',
    REQUIRE_REDIS: '1',
    REQUIRE_TOOLS: '1',
    TEST_DATABASE_URL: 'x',
    TEST_REDIS_URL: 'x',
    npm_config_cache: 'x',
    ...Object.fromEntries(OTEL_NAMES.map((name) => [name, 'x'])),
  };
  t.strictSame(load(foreign).warnings, []);
});

t.test('what is allowed and probably not meant is warned about', async (t) => {
  t.match(load({ EXPECTED_REPLICAS: '3' }).warnings, [/without REDIS_URL: each process holds its share/]);
  t.match(load({ DATABASE_PGBOUNCER: 'true' }).warnings, [/without DATABASE_MIGRATION_URL/]);
  t.strictSame(load({ EXPECTED_REPLICAS: '3', REDIS_URL: 'redis://redis' }).warnings, []);
});

t.test('no behaviour hangs on NODE_ENV', async (t) => {
  t.strictSame(load({ NODE_ENV: 'production' }), load({ NODE_ENV: 'development' }));
});

t.test('.env.example tells every variable as the schema does, and changes nothing when copied', async (t) => {
  const text = readFileSync(new URL('../../.env.example', import.meta.url), 'utf8');
  const entries = text
    .split('\n\n')
    .slice(1)
    .map((entry) => entry.trim().replaceAll(/\n# |\n/g, ' '));

  t.strictSame(
    entries.filter((entry) => entry.startsWith('# ---')).length,
    Object.keys(SETTINGS).length,
    'a heading for each part of the configuration',
  );
  const told = entries.filter((entry) => !entry.startsWith('# ---'));
  t.equal(told.length, VARIABLES.size);
  for (const [index, { name, secret, allowed, default: preset }] of [...VARIABLES.values()].entries()) {
    const facts = `${secret ? `Secret, also from ${name}_FILE. ` : ''}Allowed: ${allowed}. Default: ${preset || 'none'}.`;
    const [meaning = '', rest] = told[index]?.split(facts) ?? [];
    t.match(meaning, /^# \S.+\. $/, `${name}: what it is for, then ${facts}`);
    t.match(rest, /^( With compose it has no effect: .+\.)? #/, name);
    t.ok(rest?.endsWith(` #${name}=${preset}`), name);
  }
  const copied = Object.fromEntries(
    [...text.matchAll(/^#([A-Z_]+)=(.*)$/gm)].map(([, name, value]) => [name, value]),
  );
  t.strictSame(Object.keys(copied), [...VARIABLES.keys()]);
  t.notMatch(text, /^[^#\n]/m, 'a copy sets nothing, in compose as well, which has other defaults');
  t.strictSame(load({ ...copied, DATABASE_URL }), load({}));
});
