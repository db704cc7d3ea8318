import type { Logger } from 'pino';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ApiKeyAdmin } from './administration.ts';
import { parseToken } from './token.ts';

const RETRY_MS = 2_000;

/** Stores the keys of API_KEYS, with every scope, once; waits for a Postgres that is still on its way. */
export async function seedKeys(
  keys: { tenant: string; token: string }[],
  admin: ApiKeyAdmin,
  log: Logger,
): Promise<void> {
  for (const { tenant, token } of keys) {
    const id = parseToken(token)?.id;
    if (id === undefined) throw new Error('API_KEYS was not checked');
    const wanted = { tenant, name: 'from API_KEYS', scopes: ['*'], limitPerMinute: null, expiresAt: null };
    for (let tries = 0; ; tries++) {
      try {
        const stored = await admin.seed(wanted, id, token, {
          actor: 'env:API_KEYS',
          requestId: null,
          ip: null,
        });
        if (stored) log.info({ key_id: id, tenant }, 'key of API_KEYS stored');
        break;
      } catch (error) {
        if (tries % 30 === 0) log.warn({ error, key_id: id }, 'a key of API_KEYS could not be stored yet');
        await sleep(RETRY_MS, undefined, { ref: false });
      }
    }
  }
}
