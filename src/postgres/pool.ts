import { Socket } from 'node:net';
import { Pool } from 'pg';
import { withTimeout } from '../lib/timeouts.ts';
import { beginWithSettings, strictTypes, withSettings, withSystemCas, type Settings } from './settings.ts';

export interface PoolOptions {
  url: string;
  applicationName: string;
  /** Most connections that this process holds. */
  poolMax: number;
  /** Longest wait for a connection, and for a new one to be made. */
  poolWaitMs: number;
  queryTimeoutMs: number;
  /** True behind PgBouncer in transaction mode: nothing may be expected of a connection after a transaction. */
  pgbouncer: boolean;
  /** True refuses writes, for a replica. Behind PgBouncer the replica itself has to refuse them. */
  readOnly?: boolean;
}

/** How much longer than Postgres the client waits, so that it is Postgres that ends a slow statement. */
const CLIENT_SLACK_MS = 1000;
const IDLE_IN_TRANSACTION_MS = 10_000;
const IDLE_MS = 30_000;
/** Connections are renewed, so that a failover or a new password reaches all of them. */
const LIFETIME_SECONDS = 1800;
const KEEP_ALIVE_DELAY_MS = 10_000;
/** For what is still checked out at the end; requests had their own time before. */
const CLOSE_TIMEOUT_MS = 2000;
/** For the servers' side of closed connections. */
const GOODBYE_TIMEOUT_MS = 250;

/** The pool of pg with every wait bounded. What the URL's query string says wins over these settings. */
export function createPool(options: PoolOptions) {
  const sockets = new Set<Socket>();
  const url = withSystemCas(options.url);
  const pool = new Pool({
    // PgBouncer refuses connections that bring settings.
    connectionString: options.pgbouncer ? url : withSettings(url, sessionSettings(options)),
    // Then one statement and the transaction that brings its settings go out together.
    pipeline: options.pgbouncer,
    types: strictTypes,
    application_name: options.applicationName,
    max: options.poolMax,
    connectionTimeoutMillis: options.poolWaitMs,
    idleTimeoutMillis: IDLE_MS,
    maxLifetimeSeconds: LIFETIME_SECONDS,
    query_timeout: options.queryTimeoutMs + CLIENT_SLACK_MS,
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEP_ALIVE_DELAY_MS,
    stream: openSocket,
  });
  let closing: Promise<void> | undefined;

  return {
    pool,

    /** Waits for what is checked out, then cuts it off. */
    close: (): Promise<void> => (closing ??= shut()),
  };

  /** As pg opens them, but known to us: a server that does not answer does not say goodbye either. */
  function openSocket(): Socket {
    const socket = new Socket();
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    return socket;
  }

  async function shut(): Promise<void> {
    // Not before everything is checked in; and the sockets are still open then.
    await withTimeout(pool.end(), CLOSE_TIMEOUT_MS);
    const closed = Promise.all([...sockets].map(closeOf));
    await withTimeout(closed, GOODBYE_TIMEOUT_MS);
    for (const socket of sockets) socket.destroy();
  }
}

/** BEGIN for a connection that cannot keep any settings of its own. */
export function beginWithTimeouts({ queryTimeoutMs }: PoolOptions): string {
  return beginWithSettings(timeouts(queryTimeoutMs));
}

function sessionSettings({ queryTimeoutMs, readOnly }: PoolOptions): Settings {
  return { ...timeouts(queryTimeoutMs), ...(readOnly && { default_transaction_read_only: 'on' }) };
}

function timeouts(queryTimeoutMs: number): Settings {
  return {
    statement_timeout: queryTimeoutMs,
    // Ends before the statement does: "waited for a lock" says more than "took too long".
    lock_timeout: Math.min(5000, Math.ceil(queryTimeoutMs / 2)),
    idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_MS,
  };
}

function closeOf(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    socket.once('close', () => resolve());
  });
}
