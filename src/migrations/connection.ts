import { setTimeout as delay } from 'node:timers/promises';
import { Client, DatabaseError } from 'pg';
import { withSettings, withSystemCas } from '../postgres/settings.ts';

/** Where progress goes, a line at a time. No line holds a password. */
export type Say = (line: string) => void;

/**
 * Opens the one connection of a migration run and waits up to `waitSeconds` for a server that is still
 * starting, or not yet in the DNS. Throws an Error whose message is one line for a person and holds no password.
 */
export async function openMigrationConnection(
  databaseUrl: string,
  { waitSeconds, say }: { waitSeconds: number; say: Say },
): Promise<Client> {
  let last: { target: string; reason: string | undefined; cause: unknown } | undefined;
  const client = await repeat({ forMs: waitSeconds * 1000, everyMs: 500 }, async () => {
    const attempt = createClient(databaseUrl);
    const target = `Postgres at ${attempt.host}:${attempt.port}/${attempt.database ?? ''}`;
    try {
      await attempt.connect();
      return attempt;
    } catch (cause) {
      await attempt.end().catch(() => undefined);
      // An AggregateError (localhost on IPv4 and IPv6) has a code and no message.
      const { message, code } = cause as NodeJS.ErrnoException;
      const reason = message || code;
      if (!isTemporary(cause)) throw new Error(`${target} refused: ${reason}`, { cause });
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
    // What migrations make without a schema is where the service expects it.
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

/** Whether waiting can help: Postgres was not reached, or is starting (57P03), or has too many connections (53300). */
function isTemporary(err: unknown): boolean {
  return !(err instanceof DatabaseError) || err.code === '57P03' || err.code === '53300';
}
