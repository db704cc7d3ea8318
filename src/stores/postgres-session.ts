import { performance } from 'node:perf_hooks';
import { DatabaseError } from 'pg';
import type { PoolClient, QueryConfig, QueryResult } from 'pg';
import type { Logger } from 'pino';
import type { Metrics } from '../metrics.ts';
import { statementChannel } from '../statement-channel.ts';
import { breaksConnection, noConnection, toAppError } from './postgres-errors.ts';
import { beginWithTimeouts, createPool } from './postgres-pool.ts';
import type { PoolOptions } from './postgres-pool.ts';

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

export interface SessionDeps {
  log: Logger;
  metrics: Metrics;
  target: 'primary' | 'replica';
}

/** Checked-out connections that are measured, and that neither end the process nor stay when they break. */
export function createSessions(options: PoolOptions, { log, metrics, target }: SessionDeps) {
  const { pgbouncer, poolMax, readOnly = false } = options;
  const { pool, close } = createPool(options);
  const begin = pgbouncer ? beginWithTimeouts(options) : 'begin';
  const broken = new WeakMap<PoolClient, unknown>();

  pool.on('connect', (client) => {
    // The pool listens to idle connections only, and an 'error' event without a listener ends the process.
    client.on('error', (err) => {
      if (broken.has(client)) return;
      markBroken(client, err);
      log.warn({ error: err, target }, 'lost a connection to Postgres');
    });
  });
  // Said by the listener above.
  pool.on('error', () => undefined);

  return { checkOut, stats, close };

  async function checkOut(): Promise<Session> {
    const start = performance.now();
    try {
      return createSession(await pool.connect());
    } catch (err) {
      metrics.dbErrors.inc();
      throw noConnection(err);
    } finally {
      metrics.poolWait.observe((performance.now() - start) / 1000);
    }
  }

  function createSession(client: PoolClient): Session {
    return {
      run: (statement) => run(client, statement, send),
      runAlone: (statement) => run(client, statement, pgbouncer ? sendAlone : send),
      async begin() {
        await run(client, { text: begin }, send);
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
    const query: QueryConfig & { query_timeout?: number } = { text };
    if (values) query.values = values;
    // PgBouncer may hand the next statement to a server connection that does not know the name.
    if (name !== undefined && !pgbouncer) query.name = name;
    if (timeoutMs !== undefined) query.query_timeout = timeoutMs;

    const start = performance.now();
    try {
      return await submit(client, query);
    } catch (err) {
      if (breaksConnection(err)) markBroken(client, err);
      // A write on a read-only pool is a mistake in the code, not a failover.
      throw readOnly && err instanceof DatabaseError && err.code === '25006' ? err : toAppError(err);
    } finally {
      metrics.queryLatency.observe({ target }, (performance.now() - start) / 1000);
    }
  }

  function markBroken(client: PoolClient, err: unknown): void {
    if (broken.has(client)) return;
    broken.set(client, err);
    metrics.dbErrors.inc();
  }

  /**
   * The transaction that brings the settings, and the statement, in one round trip: the pooled connection may have
   * any, and keeps none.
   */
  async function sendAlone(client: PoolClient, query: QueryConfig): Promise<QueryResult> {
    const answers = [client.query(begin), send(client, query), client.query('commit')];
    const settled = await Promise.allSettled(answers);
    const failed = settled.find((each) => each.status === 'rejected');
    if (failed) throw failed.reason;
    return answers[1] as Promise<QueryResult>;
  }

  function stats() {
    const { totalCount: size, idleCount: idle, waitingCount: waiting } = pool;
    return { size, max: poolMax, active: size - idle, idle, waiting };
  }
}

function send(client: PoolClient, query: QueryConfig): Promise<QueryResult> {
  if (!statementChannel.hasSubscribers) return client.query(query);
  const { host, port, database } = client;
  const operation = /^\s*(\w+)/.exec(query.text)?.[1]?.toUpperCase() ?? 'OTHER';
  const event = { name: query.name, operation, host, port, database };
  return statementChannel.tracePromise(() => client.query(query), event);
}
