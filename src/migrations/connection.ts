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

/**
 * Opens the one connection of a migration run and waits up to `waitSeconds` for a server that is still
 * starting. Throws an Error whose message is one line for a person and holds no password.
 */
export async function openMigrationConnection(
  databaseUrl: string,
  { waitSeconds, say }: { waitSeconds: number; say: Say },
): Promise<Client> {
  let last: { target: string; reason: string; cause: unknown } | undefined;
  const client = await repeat({ forMs: waitSeconds * 1000, everyMs: 500 }, async () => {
    const attempt = createClient(databaseUrl);
    const target = `Postgres at ${attempt.host}:${attempt.port}/${attempt.database ?? ''}`;
    try {
      await attempt.connect();
      return attempt;
    } catch (cause) {
      await attempt.end().catch(() => undefined);
      const reason = describeFailure(cause);
      if (!isStarting(cause)) throw new Error(`${target} refused: ${reason}`, { cause });
      if (!last && waitSeconds > 0) say(`Waiting for ${target}: ${reason}`);
      last = { target, reason, cause };
      return undefined;
    }
  });
  if (client) return client;
  const waited = waitSeconds > 0 ? ` in ${waitSeconds} s` : '';
  throw new Error(`${last?.target} did not respond${waited}: ${last?.reason}`, { cause: last?.cause });
}

/** Calls `attempt` until it resolves to a value, or to undefined when the time is over. At least once. */
export async function repeat<T>(
  { forMs, everyMs }: { forMs: number; everyMs: number },
  attempt: () => Promise<T | undefined>,
): Promise<T | undefined> {
  const endMs = performance.now() + forMs;
  for (;;) {
    const value = await attempt();
    if (value !== undefined || performance.now() >= endMs) return value;
    // Jitter, so that several processes do not ask in step.
    await delay(everyMs * (0.5 + Math.random()));
  }
}

function createClient(connectionString: string): Client {
  const client = new Client({
    // What migrations make without a schema is where the service looks for it.
    connectionString: withSettings(withSystemCas(connectionString)),
    connectionTimeoutMillis: 5000,
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
