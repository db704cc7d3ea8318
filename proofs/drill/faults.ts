import { Client } from 'pg';
import { startLoad } from './load.ts';
import type { World } from './environment.ts';

export interface Fault {
  /** What is done. */
  name: string;
  /** Who must notice: the first is told to somebody, the others may be silenced by it. */
  alerts: [name: string, severity: 'critical' | 'warning'][];
  /** Does it, and resolves to what undoes it. */
  begin(world: World): Promise<() => Promise<void>>;
}

const UNKNOWN_KEY = 'hp_live_000000000000_000000000000000000000000000000000000';

/**
 * In this order: what silences other alerts comes before anybody was told of those, and a revoked key is used
 * before keys are guessed, because after that this address is refused without a look at its keys.
 */
export const FAULTS: Fault[] = [
  {
    name: 'the service is killed',
    alerts: [
      ['ApiDown', 'critical'],
      ['TargetDown', 'warning'],
    ],
    async begin({ service }) {
      await service.stop();
      return service.start;
    },
  },
  {
    name: 'Redis is stopped',
    alerts: [
      ['RedisDown', 'critical'],
      ['RateLimitFallback', 'warning'],
    ],
    async begin({ redis }) {
      await redis.stop();
      return redis.start;
    },
  },
  {
    name: 'Postgres is stopped',
    alerts: [
      ['PostgresDown', 'critical'],
      ['HighErrorRate', 'critical'],
      ['DatabaseConnectionErrors', 'warning'],
    ],
    async begin({ postgres }) {
      await postgres.stop();
      return postgres.start;
    },
  },
  {
    name: 'a revoked key is used',
    alerts: [['RevokedKeyUsed', 'warning']],
    async begin({ createKey, request }) {
      const { token, revoke } = await createKey();
      await revoke();
      return underLoad(1, () => request(token));
    },
  },
  {
    name: 'a client ignores its limit',
    alerts: [['RateLimitHits', 'critical']],
    async begin({ createKey, request }) {
      const { token } = await createKey('--limit', '5');
      return underLoad(20, () => request(token));
    },
  },
  {
    name: 'a session locks a table, and the pool runs out',
    alerts: [['DatabasePoolExhausted', 'critical']],
    async begin({ postgres }) {
      const client = new Client({ connectionString: postgres.url });
      await client.connect();
      await client.query('begin; lock table audit_event in access exclusive mode');
      return () => client.end();
    },
  },
  {
    name: 'somebody guesses keys',
    alerts: [['AuthFailures', 'warning']],
    begin: async ({ request }) => underLoad(20, () => request(UNKNOWN_KEY)),
  },
  {
    name: 'every statement takes 3.2 s',
    alerts: [
      ['HighLatencyP95', 'warning'],
      ['DatabaseQueriesSlow', 'warning'],
    ],
    async begin({ load, postgres }) {
      const { perSecond } = load;
      // As many as the pool can serve at that speed: the others would only be refused.
      load.perSecond = 1;
      // Not a slow wire: a server that says nothing for so long is given up.
      await run(
        postgres.url,
        `begin;
         alter table audit_event rename to audit_event_stored;
         create view audit_event as
           select stored.* from (select pg_sleep(3.2)) slow, audit_event_stored stored;
         commit`,
      );
      return async () => {
        await run(
          postgres.url,
          'begin; drop view audit_event; alter table audit_event_stored rename to audit_event; commit',
        );
        load.perSecond = perSecond;
      };
    },
  },
];

async function run(url: string, text: string): Promise<void> {
  const client = new Client({ connectionString: url });
  await client.connect();
  await client.query(text);
  await client.end();
}

function underLoad(perSecond: number, request: () => [string, RequestInit]): () => Promise<void> {
  const load = startLoad(perSecond, request);
  return async () => load.stop();
}
