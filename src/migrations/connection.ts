import { setTimeout as delay } from 'node:timers/promises';
import { Client } from 'pg';
import { withSettings, withSystemCas } from '../postgres/settings.ts';

/** Where progress goes, a line at a time. No line holds a password. */
export type Say = (line: string) => void;

/** Failures of a server that is starting, restarting, or not yet in the DNS; others do not mend themselves. */
const STARTING = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
  '57P03', // cannot_connect_now: "the database system is starting up"
  '53300', // too_many_connections
]);

const RETRY_MS = 500;
const CONNECT_TIMEOUT_MS = 5000;

/**
 * Opens the one connection of a migration run and waits up to `waitSeconds` for a server that is still
 * starting. Throws an Error whose message is one line for a person and holds no password.
 */
export async function openMigrationConnection(
  databaseUrl: string,
  options: { waitSeconds: number; say: Say },
): Promise<Client> {
  const deadline = Date.now() + options.waitSeconds * 1000;
  let announced = 0;
  for (;;) {
    const client = createClient(databaseUrl);
    const target = `${client.host}:${client.port}/${client.database ?? ''}`;
    try {
      await client.connect();
      return client;
    } catch (err) {
      await client.end().catch(() => undefined);
      const reason = describeFailure(err);
      if (!isStarting(err)) throw new Error(`Postgres at ${target} refused: ${reason}`, { cause: err });
      if (Date.now() >= deadline) {
        const waited = options.waitSeconds > 0 ? ` in ${options.waitSeconds} s` : '';
        throw new Error(`Postgres at ${target} did not answer${waited}: ${reason}`, { cause: err });
      }
      if (Date.now() - announced > 5000) {
        announced = Date.now();
        options.say(`Waiting for Postgres at ${target}: ${reason}`);
      }
      await delay(RETRY_MS);
    }
  }
}

function createClient(connectionString: string): Client {
  const client = new Client({
    // What migrations make without a schema is where the service looks for it.
    connectionString: withSettings(withSystemCas(connectionString)),
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    application_name: 'migrate',
    keepAlive: true,
  });
  // A connection that breaks between two queries is reported by the next query; without a listener it
  // would end the process with a stack.
  client.on('error', () => undefined);
  return client;
}

function isStarting(err: unknown): boolean {
  if (!(err instanceof Error)) return false;
  const code = 'code' in err ? String(err.code) : '';
  return STARTING.has(code) || /timeout|terminated unexpectedly/i.test(err.message);
}

/** An AggregateError (localhost on IPv4 and IPv6) has a code and no message. */
function describeFailure(err: unknown): string {
  if (!(err instanceof Error)) return String(err);
  return err.message || ('code' in err ? String(err.code) : err.name);
}
