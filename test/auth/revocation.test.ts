import { Agent, request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import t, { type Test } from 'tap';
import { createToken, digestToken } from '../../src/auth/token.ts';
import { createDatabase, withClient } from '../support/postgres.ts';
import { startRedis, type RedisServer } from '../support/redis.ts';
import { readSeries } from '../support/series.ts';
import { runCommand, startService, type ServiceProcess } from '../support/service.ts';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts';
import { until } from '../support/until.ts';

const API_KEY_SECRET = 'only-for-tests-8b1f0c6d2e9a4753-51f6';
/** Needs a key and any scope, costs nothing: an unknown URL. A key that is let in gets 404. */
const ANYWHERE = '/v1/nowhere';
const LET_IN = 404;
const QUERIES = 'db_query_latency_seconds_count{target="primary"}';
/** What is promised, whatever the code says. */
const KEY_MEMORY_MS = 5_000;
/** For a machine that does other things as well. */
const ROOM_MS = 2_000;

t.test(
  'A revoked key is refused on the next request, on every process. With Redis away, within 5 s.',
  { jobs: 2 },
  async (t) => {
    t.test('as is one that was rotated, and changes of scopes and limits count at once', async (t) => {
      const redis = await startRedis(t);
      if (!redis) return;
      const databaseUrl = await createDatabase(t);
      await noteWrites(databaseUrl);
      // The last one hears of everything a little later, as if far away: who does not wait for it is found out.
      const far = await startTcpProxy(t, redis.port);
      far.delayMs = 30;
      const world = await startWorld(t, redis, databaseUrl, [
        {},
        {},
        { REDIS_URL: `redis://127.0.0.1:${far.port}` },
      ]);
      await changeUnderLoad(t, world, redis);
      await cutSubscriptions(t, world, redis);
      await countWrites(t, world);
    });

    t.test('with Redis away, or one process cut off from it, within five seconds', async (t) => {
      const redis = await startRedis(t);
      if (!redis) return;
      const databaseUrl = await createDatabase(t);
      const proxy = await startTcpProxy(t, redis.port);
      const coverage = mkdtempSync(join(tmpdir(), 'hardpoint-test-'));
      t.teardown(() => rmSync(coverage, { recursive: true, force: true }));
      const world = await startWorld(t, redis, databaseUrl, [
        // Node counts the calls of each function, and writes it down at the end.
        { RATE_LIMIT_ENABLED: 'false', NODE_V8_COVERAGE: coverage },
        { DATABASE_URL: await prepareHeldReads(databaseUrl) },
        { REDIS_URL: `redis://127.0.0.1:${proxy.port}` },
      ]);
      await useHotKey(t, world, redis);
      await holdRead(t, world);
      await cutOff(t, world, proxy);
      await takeRedisAway(t, world, redis);
      await countDigests(t, world, coverage);
    });
  },
);

interface Key {
  id: string;
  token: string;
}

interface World {
  databaseUrl: string;
  redisUrl: string;
  services: ServiceProcess[];
  admin: Key;
  makeKeys(count: number): Promise<Key[]>;
}

/** Three processes on one database and one Redis, which know of each other; `envs` is what they have of their own. */
async function startWorld(
  t: Test,
  redis: RedisServer,
  databaseUrl: string,
  envs: Record<string, string>[],
): Promise<World> {
  const env = {
    DATABASE_URL: databaseUrl,
    REDIS_URL: redis.url,
    API_KEY_SECRET,
    AUTH_FAILURES_PER_MINUTE: '1000000',
    EXPECTED_REPLICAS: '3',
    CONNECTION_POOL_SIZE: '5',
    // A machine that does other things as well is no outage.
    REDIS_COMMAND_TIMEOUT_MS: '1000',
  };
  const services = await Promise.all(envs.map((own) => startService(t, { ...env, ...own })));
  await untilAllListen(redis.url, services.length);
  const makeKeys = (count: number) => insertKeys(databaseUrl, count);
  const [admin] = (await makeKeys(1)) as [Key];
  return { databaseUrl, redisUrl: redis.url, services, admin, makeKeys };
}

async function untilAllListen(redisUrl: string, count: number): Promise<void> {
  const client = new Redis(redisUrl);
  await until('all processes listen to changes', async () => {
    const channels = (await client.pubsub('CHANNELS', 'hp:keys:live:process:*')) as string[];
    return channels.length === count;
  });
  client.disconnect();
}

async function insertKeys(databaseUrl: string, count: number): Promise<Key[]> {
  const keys = Array.from({ length: count }, () => createToken('live'));
  const digests = keys.map(({ token }) => digestToken(token, API_KEY_SECRET));
  await withClient(databaseUrl, (client) =>
    client.query(
      `insert into api_key (id, tenant, name, scopes, digest, hint, limit_per_minute)
       select id, 'acme', '', '{*}', digest, '', 1000000 from unnest($1::text[], $2::bytea[]) each (id, digest)`,
      [keys.map(({ id }) => id), digests],
    ),
  );
  return keys;
}

/** Something that was done to a key; `done` is set when the call that did it was answered. */
interface Act {
  key: Key;
  path: string;
  /** Whether an answer is one of those that must not be given once the act is done. */
  isOld: (answer: Answer) => boolean;
  done: boolean;
  newAnswers: number;
}

async function changeUnderLoad(t: Test, world: World, redis: RedisServer): Promise<void> {
  const { services, admin } = world;
  // What listens to everything that Redis passes on, as people do to see what goes on, confirms nothing.
  const watcher = new Redis(redis.url);
  await watcher.psubscribe('*');
  const background = await world.makeKeys(100);
  const acts: Act[] = [];
  let requests = 0;
  let late = 0;
  let refusedGood = 0;
  let ended = false;

  const loads = services.flatMap((service) =>
    Array.from({ length: 2 }, async () => {
      while (!ended) {
        const act = acts[Math.floor(Math.random() * (acts.length + 2))];
        const key = act?.key ?? background[Math.floor(Math.random() * background.length)] ?? admin;
        const wasDone = act?.done;
        const answer = await ask(service, act?.path ?? ANYWHERE, { token: key.token });
        requests++;
        if (!act) refusedGood += answer.status === LET_IN ? 0 : 1;
        else if (!act.isOld(answer)) act.newAnswers++;
        else if (wasDone) late++;
        // The changes and the other test want the machine, too; some hundred requests a second find as much.
        await delay(5);
      }
    }),
  );

  const took: number[] = [];
  /** Makes the key hot everywhere, does it, and lets the load look for old answers until there were enough new ones. */
  async function watch(
    key: Key,
    path: string,
    isOld: Act['isOld'],
    work: () => Promise<unknown>,
  ): Promise<void> {
    const act: Act = { key, path, isOld, done: false, newAnswers: 0 };
    for (const answer of await askAll(services, path, key)) if (!isOld(answer)) t.fail('not as it was made');
    acts.push(act);
    const startedAt = performance.now();
    await work();
    act.done = true;
    took.push(performance.now() - startedAt);
    const probes = await askAll(services, path, key);
    late += probes.filter(isOld).length;
    await until('the change is seen under load', () => act.newAnswers >= 3, 60_000);
    acts.splice(acts.indexOf(act), 1);
  }

  const at = (index: number) => services[index] as ServiceProcess;
  const isLetIn = ({ status }: Answer) => status === LET_IN;
  const expect = async (wanted: number, answer: Promise<Answer>) => {
    const { status, text } = await answer;
    if (status !== wanted) t.fail(`${status} instead of ${wanted}: ${text}`);
  };
  const end = (key: Key, by: number) =>
    watch(key, ANYWHERE, isLetIn, () => expect(204, revoke(world, key, by)));
  const rotate = (key: Key, by: number) =>
    watch(key, ANYWHERE, isLetIn, async () => {
      const path = `/v1/api-keys/${key.id}/rotate`;
      const answer = await ask(at(by), path, { method: 'POST', token: admin.token, body: {} });
      const { token } = JSON.parse(answer.text);
      for (const { status } of await askAll(services, ANYWHERE, { id: '', token }))
        if (status !== LET_IN) t.fail('the successor is refused');
    });
  const change = async (key: Key, by: number, body: object) => {
    const path = `/v1/api-keys/${key.id}`;
    const { headers } = await ask(at(by), path, { token: admin.token });
    const ifMatch = { 'if-match': String(headers.etag) };
    await expect(200, ask(at(by), path, { method: 'PATCH', token: admin.token, body, headers: ifMatch }));
  };
  const narrow = (key: Key, by: number) =>
    watch(key, '/v1/api-keys/000000000000', isLetIn, () => change(key, by, { scopes: ['audit:read'] }));
  const slow = (key: Key, by: number) =>
    watch(
      key,
      ANYWHERE,
      ({ headers }) => !String(headers['ratelimit-policy']).includes('q=999999;'),
      () => change(key, by, { limitPerMinute: 999_999 }),
    );
  const byCommand = (key: Key) =>
    watch(key, ANYWHERE, isLetIn, async () => {
      const { code, stderr } = await runApiKey(world, ['revoke', key.id]);
      t.equal(code, 0, stderr);
      t.equal(stderr, '', 'every process confirmed');
    });

  const kinds = [
    ...(await world.makeKeys(210)).map((key) => ({ key, act: end })),
    ...(await world.makeKeys(8)).map((key) => ({ key, act: rotate })),
    ...(await world.makeKeys(8)).map((key) => ({ key, act: narrow })),
    ...(await world.makeKeys(8)).map((key) => ({ key, act: slow })),
  ];
  const todo = kinds.map((kind, index) => ({ ...kind, by: index % 3 }));
  const commands = (async () => {
    for (const key of await world.makeKeys(2)) await byCommand(key);
  })();
  const from = performance.now();
  await Promise.all(
    Array.from({ length: 6 }, async () => {
      for (let next = todo.pop(); next; next = todo.pop()) await next.act(next.key, next.by);
    }),
  );
  const tookMs = performance.now() - from;
  await commands;
  ended = true;
  await Promise.all(loads);
  watcher.disconnect();

  took.sort((a, b) => a - b);
  t.comment(
    `${took.length} changes in ${Math.round(tookMs)} ms, ${requests} requests; a change took ` +
      `${took[took.length >> 1]?.toFixed(1)} ms (median), ${took.at(-1)?.toFixed(0)} ms at most`,
  );
  t.equal(late, 0, `of ${requests} requests none that began after the answer found the old state`);
  t.equal(refusedGood, 0, 'and no good key was refused');
  t.ok(requests > 3 * took.length);
  t.ok(Number(took[took.length >> 1]) < KEY_MEMORY_MS / 2, 'who only listens is not waited for');
  t.same(
    services.flatMap(({ logs }) => logs.filter(({ message }) => /confirm|announced/.test(String(message)))),
    [],
  );
  t.equal((await ask(at(0), ANYWHERE, { token: admin.token })).status, LET_IN);
}

/** The connections on which processes hear of changes are cut again and again, and made anew. */
async function cutSubscriptions(t: Test, world: World, redis: RedisServer): Promise<void> {
  const client = new Redis(redis.url);
  const worst: number[] = [];
  for (const key of await world.makeKeys(5)) {
    await askAll(world.services, ANYWHERE, key);
    await client.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
    worst.push((await revokeAndWatch(t, world, key)).lastAdmittedMs);
  }
  client.disconnect();
  t.comment(`cut subscriptions: admitted for at most ${Math.max(...worst).toFixed(0)} ms after the answer`);
  t.ok(Math.max(...worst) < KEY_MEMORY_MS);
}

async function takeRedisAway(t: Test, world: World, redis: RedisServer): Promise<void> {
  for (const [how, away, back] of [
    ['frozen', redis.freeze, redis.thaw],
    ['stopped', redis.stop, redis.start],
  ] as const) {
    const [first, second] = (await world.makeKeys(2)) as [Key, Key];
    for (const key of [first, second]) await askAll(world.services, ANYWHERE, key);
    await away();
    const found = await Promise.all([
      revokeAndWatch(t, world, first, 0, false),
      revokeAndWatch(t, world, second, 2, false),
    ]);
    const worst = Math.max(...found.map(({ lastAdmittedMs }) => lastAdmittedMs));
    const answer = Math.max(...found.map(({ answerMs }) => answerMs));
    t.comment(
      `Redis ${how}: answered within ${answer.toFixed(0)} ms, admitted for at most ${worst.toFixed(0)} ms more`,
    );
    t.ok(worst < KEY_MEMORY_MS, `refused everywhere ${worst} ms after the answer`);
    t.ok(answer < KEY_MEMORY_MS, `answered within ${answer} ms`);
    await back();
    await until('a repeated call is confirmed', async () => isToldToAll(await revoke(world, first)));
  }
}

/** A process with this URL waits for a lock after it read a key's row, and before it says so. */
async function prepareHeldReads(databaseUrl: string): Promise<string> {
  await withClient(databaseUrl, (client) =>
    client.query(
      `create schema held;
       create view held.api_key as select stored.* from public.api_key stored,
         lateral (select pg_advisory_xact_lock_shared(1) where stored.id is not null) gate`,
    ),
  );
  const url = new URL(databaseUrl);
  url.searchParams.set('options', '-c search_path=held,public');
  return url.href;
}

/** Fills that race with a revocation lose: the second process has read the old row when the first one revokes. */
async function holdRead(t: Test, world: World): Promise<void> {
  const [, slow] = world.services as [ServiceProcess, ServiceProcess];
  const [key] = (await world.makeKeys(1)) as [Key];
  await withClient(world.databaseUrl, async (client) => {
    const untilHeld = (count: number) =>
      until(`${count} reads are held`, async () => {
        const { rows } = await client.query(
          `select from pg_locks where locktype = 'advisory' and not granted
             and database = (select oid from pg_database where datname = current_database())`,
        );
        return rows.length === count;
      });

    await client.query('select pg_advisory_lock(1)');
    const before = ask(slow, ANYWHERE, key);
    await untilHeld(1);
    t.equal((await revoke(world, key)).status, 204);
    const after = ask(slow, ANYWHERE, key);
    await untilHeld(2);
    await client.query('select pg_advisory_unlock(1)');

    t.equal((await before).status, LET_IN, 'it began before the revocation');
    t.equal((await after).status, 401, 'it did not share the late answer');
    t.equal((await ask(slow, ANYWHERE, key)).status, 401, 'which was not remembered');
  });
}

async function cutOff(t: Test, world: World, proxy: TcpProxy): Promise<void> {
  const [blackholed, again, refused, fromOutside] = (await world.makeKeys(4)) as [Key, Key, Key, Key];
  const others = world.services.slice(0, 2);

  await askAll(world.services, ANYWHERE, blackholed);
  await askAll(world.services, ANYWHERE, again);
  proxy.cut();
  const silent = await revokeAndWatch(t, world, blackholed);
  t.comment(
    `blackholed: answered after ${silent.answerMs.toFixed(0)} ms, admitted for ${silent.lastAdmittedMs.toFixed(0)} ms more`,
  );
  t.equal(silent.lastAdmittedMs, 0, 'who does not confirm is waited for until its memory has run out');
  t.ok(silent.answerMs < KEY_MEMORY_MS + ROOM_MS, `answered after ${silent.answerMs} ms`);
  const startedAt = performance.now();
  t.equal((await revoke(world, again)).status, 204);
  const againMs = performance.now() - startedAt;
  t.ok(againMs < KEY_MEMORY_MS / 2, `it is not waited for again: ${againMs} ms`);
  for (const { status } of await askAll(others, ANYWHERE, again)) t.equal(status, 401);

  proxy.close();
  await until('the process knows that it is cut off', async () =>
    (await metricsOf(world.services[2])).includes('redis_up{role="limits"} 0'),
  );
  for (const key of [refused, fromOutside]) await askAll(world.services, ANYWHERE, key);
  const [inside, outside] = await Promise.all([
    revokeAndWatch(t, world, refused, 0),
    revokeAndWatch(t, world, fromOutside, 2, false),
  ]);
  t.comment(
    `refused: answered after ${inside.answerMs.toFixed(0)} ms, the one admitted for ${inside.lastAdmittedMs.toFixed(0)} ms more; ` +
      `by the one: after ${outside.answerMs.toFixed(0)} ms, the others for ${outside.lastAdmittedMs.toFixed(0)} ms more`,
  );
  t.same(inside.byService.slice(0, 2), [0, 0], 'the others know at once');
  for (const { lastAdmittedMs, answerMs } of [inside, outside]) {
    t.ok(lastAdmittedMs < KEY_MEMORY_MS, `${lastAdmittedMs} ms`);
    t.ok(answerMs < KEY_MEMORY_MS / 2, `${answerMs} ms`);
  }
}

/** Revokes by one process and asks all of them until each refuses; times in ms after the answer. */
async function revokeAndWatch(t: Test, world: World, key: Key, by = 0, toAll = true) {
  let answeredAt = Infinity;
  const watches = world.services.map(async (service) => {
    let lastAdmittedAt = -Infinity;
    for (let refusals = 0; refusals < 5 || answeredAt === Infinity;) {
      const at = performance.now();
      const { status } = await ask(service, ANYWHERE, { token: key.token });
      if (status === 401) refusals++;
      else if (at > answeredAt) lastAdmittedAt = at;
      if (at > answeredAt + 2 * KEY_MEMORY_MS) break;
      await delay(20);
    }
    return Math.max(0, lastAdmittedAt - answeredAt);
  });
  const startedAt = performance.now();
  const answer = await revoke(world, key, by);
  answeredAt = performance.now();
  t.equal(answer.status, 204, 'it is revoked');
  t.equal(isToldToAll(answer), toAll, toAll ? 'everybody knows' : 'who answers cannot tell others');
  const byService = await Promise.all(watches);
  return { answerMs: answeredAt - startedAt, byService, lastAdmittedMs: Math.max(...byService) };
}

function isToldToAll({ status, headers }: Answer): boolean {
  return status === 204 && headers['propagation-delay'] === undefined;
}

function revoke({ services, admin }: World, { id }: Key, by = 0): Promise<Answer> {
  return ask(services[by] as ServiceProcess, `/v1/api-keys/${id}`, { method: 'DELETE', token: admin.token });
}

async function noteWrites(databaseUrl: string): Promise<void> {
  await withClient(databaseUrl, (client) =>
    client.query(
      `create table write_of_last_use (id text, at timestamptz);
       create function note_write() returns trigger language plpgsql as $$
       begin insert into write_of_last_use values (new.id, new.last_used_at); return new; end $$;
       create trigger note_write after update of last_used_at on api_key for each row execute function note_write()`,
    ),
  );
}

async function countWrites(t: Test, { databaseUrl, services }: World): Promise<void> {
  for (const { child } of services) child.kill('SIGTERM');
  await Promise.all(services.map(({ ended }) => ended));
  const { rows } = await withClient(databaseUrl, (client) =>
    client.query(
      `select count(*)::int as writes, count(distinct id)::int as keys, count(distinct (id, at))::int as minutes
       from write_of_last_use`,
    ),
  );
  const [{ writes, keys, minutes }] = rows;
  t.comment(`last use: ${writes} writes of ${keys} keys by 3 processes`);
  t.ok(keys > 300, `${keys} keys were used`);
  t.equal(writes, minutes, 'one write a key and minute, whoever of the three used it');
}

/** On the first process, while nobody else asks for anything. */
async function useHotKey(t: Test, world: World, redis: RedisServer): Promise<void> {
  const [service] = world.services as [ServiceProcess];
  const [key] = (await world.makeKeys(1)) as [Key];
  const client = new Redis(redis.url);
  const measure = async () => ({
    queries: readSeries(await metricsOf(service), QUERIES),
    // The connections are tried all the time, and this is a question, too.
    commands: (await client.info('commandstats')).match(/^cmdstat_(?!ping|del|info|set:).*?calls=\d+/gm),
  });

  const endMs = performance.now() + KEY_MEMORY_MS - ROOM_MS;
  t.equal((await ask(service, ANYWHERE, key)).status, LET_IN);
  const before = await measure();
  const answers: Answer[] = [];
  while (answers.length < 1_000 && performance.now() < endMs)
    answers.push(...(await askAll(Array(10).fill(service), ANYWHERE, key)));
  const after = await measure();
  client.disconnect();

  t.same([...new Set(answers.map(({ status }) => status))], [LET_IN]);
  t.same(after, before, `${answers.length} requests, no query and no command of Redis`);
  t.ok(answers.length > 0);
}

async function countDigests(t: Test, { services }: World, coverage: string): Promise<void> {
  const [{ child, ended }] = services as [ServiceProcess];
  child.kill('SIGTERM');
  await ended;
  const calls = callsIn(coverage);
  const requests = calls('key-cache', 'peek');
  const digests = calls('token', 'digestToken');
  t.comment(`${requests} requests, ${digests} digests`);
  t.ok(requests > digests);
  t.equal(digests, calls('key-check', 'loadKey'), 'only what is asked of Postgres is digested');
}

/** How often a function of a module was called, from what Node wrote down at its end. */
function callsIn(folder: string): (module: string, name: string) => number {
  interface Coverage {
    result: { url: string; functions: { functionName: string; ranges: { count: number }[] }[] }[];
  }
  const scripts = readdirSync(folder).flatMap(
    (file) => (JSON.parse(readFileSync(join(folder, file), 'utf8')) as Coverage).result,
  );
  return (module, name) =>
    scripts
      .filter(({ url }) => new RegExp(`/${module}\\.[jt]s$`).test(url))
      .flatMap(({ functions }) => functions.filter(({ functionName }) => functionName === name))
      .reduce((sum, { ranges }) => sum + (ranges[0]?.count ?? 0), 0);
}

interface Answer {
  status: number;
  headers: IncomingHttpHeaders;
  text: string;
}

const agent = new Agent({ keepAlive: true, maxSockets: 20 });
t.teardown(() => agent.destroy());

function ask(
  { port }: ServiceProcess,
  path: string,
  {
    method = 'GET',
    token,
    body,
    headers,
  }: { method?: string; token: string; body?: object; headers?: Record<string, string> },
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const payload = body && JSON.stringify(body);
    const sent = httpRequest(
      {
        host: '127.0.0.1',
        port,
        path,
        method,
        agent,
        headers: {
          authorization: `Bearer ${token}`,
          ...headers,
          ...(payload && {
            'content-type': 'application/json',
            'content-length': Buffer.byteLength(payload),
          }),
        },
      },
      (answer) => {
        let text = '';
        answer.setEncoding('utf8');
        answer.on('data', (chunk: string) => (text += chunk));
        answer.on('end', () => resolve({ status: answer.statusCode ?? 0, headers: answer.headers, text }));
      },
    );
    sent.on('error', reject);
    sent.end(payload);
  });
}

function askAll(services: ServiceProcess[], path: string, { token }: Key): Promise<Answer[]> {
  return Promise.all(services.map((service) => ask(service, path, { token })));
}

async function metricsOf(service: ServiceProcess | undefined): Promise<string> {
  return (await fetch(`${service?.metricsUrl}/metrics`)).text();
}

function runApiKey({ databaseUrl, redisUrl }: World, args: string[]) {
  const env = { DATABASE_URL: databaseUrl, REDIS_URL: redisUrl, API_KEY_SECRET };
  return runCommand('cli/api-key', args, env);
}
