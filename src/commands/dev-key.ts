import { pino } from 'pino';
import type { Config } from '../config.ts';
import { createMetrics } from '../metrics.ts';
import { createAfterWrite } from '../stores/after-write.ts';
import { createApiKeyAdmin } from '../stores/api-key-admin.ts';
import { parseToken } from '../stores/api-key-token.ts';
import { createKeyRing } from '../stores/key-ring.ts';
import { openPostgres } from '../stores/postgres.ts';

const WANTED = { tenant: 'dev', name: 'npm run dev', scopes: ['*'], limitPerMinute: null, expiresAt: null };
const ACTOR = { actor: 'command:dev', requestId: null, ip: null };

/** A key with every scope: the one of an earlier start while this database takes it, else a new one. */
export async function ensureKey({ auth, postgres }: Config, earlier: string | undefined): Promise<string> {
  const { replicaUrl: _, migrationUrl: __, ...primary } = postgres;
  const deps = {
    log: pino({ level: 'silent' }),
    metrics: createMetrics('command'),
    target: 'primary',
  } as const;
  const db = openPostgres({ ...primary, poolMax: 1, applicationName: 'hardpoint-dev' }, deps);
  try {
    if (earlier !== undefined && parseToken(earlier)?.environment === auth.keyEnvironment) {
      const verdict = await createKeyRing(db, { ...auth, hearsOfChanges: () => false }).find(earlier);
      if ('principal' in verdict) return earlier;
    }
    // The service starts after this, so there is no process yet that would have to hear of the key.
    const afterWrite = createAfterWrite({ announce: () => Promise.resolve(true), log: deps.log });
    const admin = createApiKeyAdmin(db, { ...auth, afterWrite });
    return (await admin.create(WANTED, ACTOR)).token;
  } finally {
    await db.close();
  }
}
