// Goes with the example: src/features/orders
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Client } from 'pg';
import type { TcpProxy } from '../../test/support/tcp-proxy.ts';
import type { Environment, Server } from './environment.ts';

export interface Fault {
  name: string;
  seconds: number;
  /** Begins it, and resolves to what ends it; undefined where it cannot be tried here. */
  begin(environment: Environment): Promise<(() => Promise<unknown>) | undefined>;
}

const USUAL_SECONDS = 8;

/** On the way to a server: begins, and resolves to what ends it. */
const WAY: Record<string, (proxy: TcpProxy) => () => unknown> = {
  'latency of 100 ms with jitter': (proxy) => withSettings(proxy, { delayMs: 50, jitterMs: 100 }),
  'latency of 1 s': (proxy) => withSettings(proxy, { delayMs: 1_000 }),
  '10 KB/s': (proxy) => withSettings(proxy, { bytesPerSecond: 10_000 }),
  'slow close': (proxy) => {
    const restore = withSettings(proxy, { closeDelayMs: 5_000 });
    proxy.reset();
    void proxy.accept();
    return restore;
  },
  'black hole': (proxy) => {
    proxy.hold();
    return proxy.release;
  },
  reset: (proxy) => {
    proxy.reset();
    return proxy.accept;
  },
  refused: (proxy) => {
    const refused = proxy.refuse();
    return () => refused.then(proxy.accept);
  },
};

function ofServer(name: 'postgres' | 'redis'): Fault[] {
  const title = { postgres: 'Postgres', redis: 'Redis' }[name];
  const on = (what: string, begin: (server: Server) => unknown, seconds = USUAL_SECONDS): Fault => ({
    name: `${title}: ${what}`,
    seconds,
    begin: async (environment) => (await begin(environment[name])) as () => Promise<unknown>,
  });
  return [
    ...Object.entries(WAY).map(([what, begin]) => on(what, ({ proxy }) => begin(proxy))),
    on('black hole for 40 s', ({ proxy }) => WAY['black hole']?.(proxy), 40),
    on('kill -9', async (server) => {
      await server.kill();
      return server.start;
    }),
    on('SIGSTOP', (server) => {
      server.signal('SIGSTOP');
      return () => server.signal('SIGCONT');
    }),
  ];
}

const REDIS: Fault[] = [
  redisFault('full', async ({ admin }) => {
    await admin.config('SET', 'maxmemory', '1');
    return () => admin.config('SET', 'maxmemory', '0');
  }),
  redisFault('NOAUTH', async ({ admin }) => {
    await admin.config('SET', 'requirepass', 'another');
    await admin.call('client', 'kill', 'skipme', 'yes');
    return () => admin.config('SET', 'requirepass', '');
  }),
  redisFault('DEBUG SLEEP', async ({ admin }) => {
    void admin.call('debug', 'sleep', '4').catch(() => undefined);
    return () => admin.ping();
  }),
  redisFault('FLUSHALL', async ({ admin }) => every(500, () => admin.flushall())),
];

const POSTGRES: Fault[] = [
  postgresFault('read-only', async ({ admin }) => {
    const set = async (to: string) => {
      await admin.query(`alter system set default_transaction_read_only = ${to}`);
      await admin.query('select pg_reload_conf()');
    };
    await set('on');
    return async () => {
      // A session of its own, that may write.
      await admin.query('set default_transaction_read_only = off');
      await set('off');
    };
  }),
  postgresFault('backends terminated', async ({ admin }) => every(250, () => admin.query(TERMINATE))),
  postgresFault('connections exhausted', async ({ admin, url }) => {
    const taken: Client[] = [];
    const stop = every(100, async () => {
      await admin.query(TERMINATE);
      for (;;) {
        const client = new Client({ connectionString: url, application_name: 'chaos-taken' });
        client.on('error', () => undefined);
        if (!(await client.connect().then(...SUCCEEDED))) break;
        taken.push(client);
      }
    });
    return async () => {
      await stop();
      await Promise.all(taken.map((client) => client.end()));
    };
  }),
  postgresFault('table locked', async ({ admin }) => {
    const client = await admin.connect();
    await client.query('begin; lock table orders in access exclusive mode');
    return async () => {
      await client.query('rollback');
      client.release();
    };
  }),
  postgresFault('disk full for data', async ({ disks }) => disks && fill(disks.data)),
  postgresFault('disk full for WAL', async ({ disks, admin, start }) => {
    if (!disks) return undefined;
    const free = fill(disks.wal);
    // Until there is no segment left to write to: Postgres ends then, and starts again and again.
    const stop = every(50, () => admin.query('select pg_switch_wal()').catch(() => undefined));
    return async () => {
      await stop();
      await free();
      await start();
    };
  }),
];

export const FAULTS: Fault[] = [...ofServer('postgres'), ...POSTGRES, ...ofServer('redis'), ...REDIS];

const SUCCEEDED = [() => true, () => false] as const;
const TERMINATE = `select pg_terminate_backend(pid) from pg_stat_activity
  where pid <> pg_backend_pid() and backend_type = 'client backend' and application_name not like 'chaos%'`;

function redisFault(what: string, begin: (redis: Environment['redis']) => ReturnType<Fault['begin']>): Fault {
  return { name: `Redis: ${what}`, seconds: USUAL_SECONDS, begin: ({ redis }) => begin(redis) };
}

function postgresFault(
  what: string,
  begin: (postgres: Environment['postgres']) => ReturnType<Fault['begin']>,
): Fault {
  return { name: `Postgres: ${what}`, seconds: USUAL_SECONDS, begin: ({ postgres }) => begin(postgres) };
}

function withSettings(proxy: TcpProxy, settings: Partial<TcpProxy>): () => void {
  const before = { ...proxy };
  Object.assign(proxy, settings);
  return () => {
    for (const name of Object.keys(settings) as (keyof TcpProxy)[])
      Object.assign(proxy, { [name]: before[name] });
  };
}

/** Does it again and again until the returned function is called, which waits for the last time. */
function every(ms: number, work: () => Promise<unknown>): () => Promise<void> {
  let stopped = false;
  const running = (async () => {
    while (!stopped) {
      await work().catch(() => undefined);
      await delay(ms);
    }
  })();
  return async () => {
    stopped = true;
    await running;
  };
}

/** Takes all that is left of a small file system, and resolves to what gives it back. */
function fill(folder: string): () => Promise<void> {
  const ballast = join(folder, 'ballast');
  spawnSync('dd', ['if=/dev/zero', `of=${ballast}`, 'bs=64k'], { stdio: 'ignore' });
  return async () => rmSync(ballast, { force: true });
}
