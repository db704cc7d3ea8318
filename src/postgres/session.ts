import { performance } from 'node:perf_hooks';
import { DatabaseError } from 'pg';
import type { PoolClient, QueryConfig, QueryResult } from 'pg';
import type { Logger } from 'pino';
import type { Metrics } from '../observability/metrics.ts';
import { statementChannel } from '../observability/statement-channel.ts';
import { withTimeout } from '../lib/timeouts.ts';
import {
  breaksConnection,
  isClientTimeout,
  isIdleClose,
  NO_CONNECTION,
  noConnection,
  toAppError,
} from './errors.ts';
import { beginWithTimeouts, createPool } from './pool.ts';
import type { PoolOptions } from './pool.ts';
import { watchStatements, type FindBusy } from './outage.ts';

/** One checked-out connection. */
export interface Session {
  /** Inside of a transaction. */
  run(statement: Statement): Promise<QueryResult>;
  /** Outside of a transaction. */
  runAlone(statement: Statement): Promise<QueryResult>;
  begin(): Promise<void>;
  /** What made the connection unusable, if anything did. */
  brokenBy(): unknown;
  release(): void;
}

export interface Statement {
  name?: string;
  text: string;
  values?: unknown[];
  timeoutMs?: number;
}

type TimedQuery = QueryConfig & { query_timeout?: number };

export interface SessionDeps {
  log: Logger;
  metrics: Metrics;
  target: 'primary' | 'replica';
}

export type Sessions = ReturnType<typeof createSessions>;

/** A connection that said nothing for so long may have lost its way to the server without knowing. */
const TRUSTED_MS = 1000;

/**
 * Checked-out connections that are measured, and that neither end the process nor stay when they break. With
 * `findBusy` (which of these backends are at work) none of them waits for a server that is not there.
 */
export function createSessions(
  options: PoolOptions,
  { log, metrics, target }: SessionDeps,
  findBusy?: FindBusy,
) {
  const { pgbouncer, poolMax, poolWaitMs, readOnly = false } = options;
  const { pool, close } = createPool(options);
  const beginText = pgbouncer ? beginWithTimeouts(options) : 'begin';
  const broken = new WeakMap<PoolClient, unknown>();
  const heardAtMs = new WeakMap<PoolClient, number>();
  const watch = findBusy && watchStatements(findBusy, poolWaitMs);
  // What said nothing since then was idle when another connection was found dead.
  let suspectUntilMs = -Infinity;

  pool.on('connect', (client) => {
    // The pool listens to idle connections only, and an 'error' event without a listener ends the process.
    client.on('error', (err) => {
      if (broken.has(client)) return;
      markBroken(client, err);
      if (!isIdleClose(err)) log.warn({ error: err, target }, 'lost a connection to Postgres');
    });
    heardAtMs.set(client, performance.now());
  });
  // Said by the listener above.
  pool.on('error', () => undefined);

  return {
    checkOut,
    stats,
    close(): Promise<void> {
      watch?.stop();
      return close();
    },
  };

  async function checkOut(): Promise<Session> {
    const start = performance.now();
    const leftMs = () => start + poolWaitMs - performance.now();
    try {
      for (;;) {
        const client = await connect(leftMs());
        if (await responds(client, leftMs() / 2)) return createSession(client, leftMs);
        client.release(true);
      }
    } catch (err) {
      metrics.dbErrors.inc();
      throw noConnection(err);
    } finally {
      metrics.poolWait.observe((performance.now() - start) / 1000);
    }
  }

  async function connect(waitMs: number): Promise<PoolClient> {
    const connecting = pool.connect();
    // The pool's own limit counts from here, and says more when it comes first.
    const client = await withTimeout(connecting, waitMs + 10);
    if (client) return client;
    connecting.then(
      (late) => late.release(),
      () => undefined,
    );
    throw new Error(NO_CONNECTION);
  }

  async function responds(client: PoolClient, waitMs: number): Promise<boolean> {
    const heard = heardAtMs.get(client) ?? 0;
    if (heard > suspectUntilMs && performance.now() - heard < TRUSTED_MS) return true;
    try {
      const probe: TimedQuery = { text: 'select 1', query_timeout: Math.max(1, waitMs) };
      await client.query(probe);
      return true;
    } catch (err) {
      markBroken(client, err);
      return false;
    }
  }

  function createSession(client: PoolClient, leftMs: () => number): Session {
    const begin: typeof send = (_, query) => sendBegin(client, query, leftMs());
    return {
      run: (statement) => run(client, statement, send),
      runAlone: (statement) =>
        run(client, statement, pgbouncer ? (_, query) => sendAlone(client, query, begin) : send),
      async begin() {
        await run(client, { text: beginText }, begin);
      },
      brokenBy: () => broken.get(client),
      // Also out of the pool: a connection that was left inside a transaction.
      release: () => client.release(broken.has(client) || client.getTransactionStatus() !== 'I'),
    };
  }

  async function run(
    client: PoolClient,
    { name, text, values, timeoutMs }: Statement,
    submit: typeof send,
  ): Promise<QueryResult> {
    if (broken.has(client)) throw toAppError(broken.get(client));
    const query: TimedQuery = { text };
    // Here, because pg has sent half of a statement before it finds a value that cannot be sent.
    if (values) query.values = values.map(toWire);
    // PgBouncer may hand the next statement to a server connection that does not know the name.
    if (name !== undefined && !pgbouncer) query.name = name;
    if (timeoutMs !== undefined) query.query_timeout = timeoutMs;

    const start = performance.now();
    try {
      const answer = submit(client, query);
      return await (watch ? watch.over(client, answer) : answer);
    } catch (err) {
      if (breaksConnection(err)) markBroken(client, err);
      // A write on a read-only pool is a mistake in the code, not a failover.
      throw readOnly && err instanceof DatabaseError && err.code === '25006' ? err : toAppError(err);
    } finally {
      if (!broken.has(client)) heardAtMs.set(client, performance.now());
      metrics.queryLatency.observe({ target }, (performance.now() - start) / 1000);
    }
  }

  function markBroken(client: PoolClient, err: unknown): void {
    if (broken.has(client)) return;
    broken.set(client, err);
    if (isIdleClose(err)) return;
    suspectUntilMs = performance.now();
    metrics.dbErrors.inc();
  }

  /**
   * The transaction that brings the settings, and the statement, in one round trip: the pooled connection may have
   * any, and keeps none.
   */
  async function sendAlone(client: PoolClient, query: TimedQuery, begin: typeof send): Promise<QueryResult> {
    const begun = begin(client, { text: beginText });
    const answer = send(client, query);
    const settled = await Promise.allSettled([begun, answer, client.query('commit')]);
    const failed = settled.find((each) => each.status === 'rejected');
    if (failed) throw failed.reason;
    return answer;
  }

  /** Behind PgBouncer this waits for a connection to Postgres. */
  async function sendBegin(client: PoolClient, query: TimedQuery, waitMs: number): Promise<QueryResult> {
    if (!pgbouncer) return send(client, query);
    try {
      return await send(client, { ...query, query_timeout: Math.max(1, waitMs) });
    } catch (err) {
      if (!isClientTimeout(err)) throw err;
      markBroken(client, err);
      throw noConnection(new Error(NO_CONNECTION, { cause: err }));
    }
  }

  function stats() {
    const { totalCount: size, idleCount: idle, waitingCount: waiting } = pool;
    return { size, max: poolMax, active: size - idle, idle, waiting };
  }
}

function send(client: PoolClient, query: TimedQuery): Promise<QueryResult> {
  if (!statementChannel.hasSubscribers) return client.query(query);
  const { host, port, database } = client;
  const operation = /^\s*(\w+)/.exec(query.text)?.[1]?.toUpperCase() ?? 'OTHER';
  const event = { name: query.name, operation, host, port, database };
  return statementChannel.tracePromise(() => client.query(query), event);
}

/** As pg would send it; throws for what no JSON can hold. */
function toWire(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(toWire);
  const isJson =
    typeof value === 'object' && value !== null && !(value instanceof Date) && !ArrayBuffer.isView(value);
  return isJson ? JSON.stringify(value) : value;
}
