import type { Logger } from 'pino';
import { AppError } from '../errors.ts';
import { z } from 'zod';
import type { Db, Tx } from '../postgres/postgres.ts';
import { createSealer, type Sealer } from './encryption.ts';

/** Printable ASCII; long enough for any UUID, short enough for an index. */
export const IDEMPOTENCY_KEY = /^[\x21-\x7e]{1,255}$/;

/** The header, for the document; the plugin checks it. */
export const IdempotencyKeyHeader = z.looseObject({
  'idempotency-key': z
    .string()
    .optional()
    .describe('Any text of your own; the same request with the same key has one effect')
    .meta({ pattern: IDEMPOTENCY_KEY.source }),
});

/** What makes a repeated request the same: the client's key, and a digest of all that it asked for. */
export interface IdempotentRequest {
  tenant: string;
  key: string;
  fingerprint: Buffer;
  /** The response holds a secret: see `createSealer`. */
  sealed: boolean;
}

/** A response that can be sent again. */
export interface StoredResponse {
  status: number;
  headers: Record<string, string>;
  body: unknown;
}

const PURGE_INTERVAL_MS = 10 * 60_000;
/** A statement that removed a day's records at once would hold its locks, and bloat, for long. */
const PURGE_ROWS = 1_000;

export type Idempotency = ReturnType<typeof startIdempotency>;

/**
 * `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07), kept in Postgres and not in
 * Redis: the answer is stored in the transaction of the effect itself, so there is no moment at
 * which one exists without the other, whatever crashes.
 */
export function startIdempotency(db: Db, options: { ttlSeconds: number; secretKey: string; log: Logger }) {
  const sealer = createSealer(options.secretKey, 'idempotency');
  const timer = setInterval(() => void purge(), PURGE_INTERVAL_MS);
  timer.unref();

  async function purge(): Promise<void> {
    try {
      for (let removed = PURGE_ROWS; removed === PURGE_ROWS;) {
        const rows = await db.query({
          name: 'idempotency_purge',
          text: `delete from idempotency_record
            where (tenant, key) in (
              select tenant, key from idempotency_record
              where expires_at < now()
              order by expires_at
              limit $1
              for update skip locked
            )
            returning key`,
          values: [PURGE_ROWS],
        });
        removed = rows.length;
      }
    } catch (error) {
      options.log.warn({ error }, 'expired idempotency records could not be removed');
    }
  }

  return {
    /** Removes what expired, also done by itself every ten minutes. */
    purge,
    async close(): Promise<void> {
      clearInterval(timer);
    },

    /**
     * Runs `work` once for all requests with this key and answers the repeated ones with what the
     * first was answered. Throws `idempotency_in_progress` while the first still runs,
     * `idempotency_key_reused` when the key came with another request, and `idempotency_response_gone` when
     * the response holds a secret that cannot be opened any more. A failed `work` leaves nothing behind: it
     * may be tried again with the same key.
     */
    async run(
      request: IdempotentRequest | undefined,
      work: (tx: Tx) => Promise<StoredResponse>,
    ): Promise<StoredResponse> {
      return db.transaction(async (tx) => {
        if (!request) return work(tx);
        await lock(tx, request);
        const stored = await find(tx, request);
        if (stored) {
          if (!stored.fingerprint.equals(request.fingerprint)) {
            throw new AppError('idempotency_key_reused', 'This Idempotency-Key was used for another request');
          }
          return replay(stored, request, sealer);
        }
        const answer = await work(tx);
        const text = JSON.stringify(answer.body);
        const body = request.sealed ? sealer.seal(text, ownerOf(request)) : text;
        await insert(tx, request, { ...answer, body }, options.ttlSeconds);
        return answer;
      });
    },
  };
}

function ownerOf({ tenant, key }: IdempotentRequest): string {
  return `${tenant}\n${key}`;
}

function replay(
  { status, headers, body }: StoredRow,
  request: IdempotentRequest,
  sealer: Sealer,
): StoredResponse {
  const text = request.sealed ? sealer.unseal(body, ownerOf(request)) : body;
  if (text !== undefined) {
    return { status, headers: { ...headers, 'idempotency-replayed': 'true' }, body: JSON.parse(text) };
  }
  throw new AppError(
    'idempotency_response_gone',
    'The first request with this Idempotency-Key had its effect, but its response held a secret and cannot be sent ' +
      'again. Rotate or revoke what Location names, with another Idempotency-Key',
    { headers },
  );
}

/** Held until the end of the transaction; taken without waiting, so that a repeated request is told at once. */
async function lock(tx: Tx, { tenant, key }: IdempotentRequest): Promise<void> {
  const [row] = await tx.query<{ locked: boolean }>({
    name: 'idempotency_lock',
    text: `select pg_try_advisory_xact_lock(hashtextextended('idempotency:' || $1 || ':' || $2, 0)) as locked`,
    values: [tenant, key],
  });
  if (!row?.locked) {
    throw new AppError('idempotency_in_progress', 'The first request with this Idempotency-Key still runs', {
      retryAfterSeconds: 1,
    });
  }
}

type StoredRow = Omit<StoredResponse, 'body'> & { body: string };

async function find(
  tx: Tx,
  { tenant, key }: IdempotentRequest,
): Promise<(StoredRow & { fingerprint: Buffer }) | undefined> {
  const rows = await tx.query<StoredRow & { fingerprint: Buffer }>({
    name: 'idempotency_find',
    text: `select fingerprint, status, headers, body from idempotency_record
      where tenant = $1 and key = $2 and expires_at > now()`,
    values: [tenant, key],
  });
  return rows[0];
}

/** Takes the place of an expired record that was not purged yet. */
async function insert(
  tx: Tx,
  { tenant, key, fingerprint }: IdempotentRequest,
  { status, headers, body }: StoredRow,
  ttlSeconds: number,
): Promise<void> {
  await tx.query({
    name: 'idempotency_insert',
    text: `insert into idempotency_record (tenant, key, fingerprint, status, headers, body, created_at, expires_at)
      values ($1, $2, $3, $4, $5, $6, now(), now() + make_interval(secs => $7))
      on conflict (tenant, key) do update set
        fingerprint = excluded.fingerprint, status = excluded.status, headers = excluded.headers,
        body = excluded.body, created_at = excluded.created_at, expires_at = excluded.expires_at`,
    values: [tenant, key, fingerprint, status, JSON.stringify(headers), body, ttlSeconds],
  });
}
