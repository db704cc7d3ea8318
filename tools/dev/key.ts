import { pino } from 'pino';
import type { Config } from '../../src/config/config.ts';
import { createMetrics } from '../../src/observability/metrics.ts';
import { createAfterWrite } from '../../src/cache/after-write.ts';
import { createApiKeyAdmin } from '../../src/auth/administration.ts';
import { parseToken } from '../../src/auth/token.ts';
import { createKeyVerifier } from '../../src/auth/key-check.ts';
import { openPostgres } from '../../src/postgres/postgres.ts';

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
      const { result } = await createKeyVerifier(db, auth)(earlier);
      if ('principal' in result) return earlier;
    }
    // The service starts after this, so no process has to be informed of the key.
    const afterWrite = createAfterWrite({ announce: () => Promise.resolve(true), log: deps.log });
    const admin = createApiKeyAdmin(db, { ...auth, afterWrite });
    return (await admin.create(WANTED, ACTOR)).token;
  } finally {
    await db.close();
  }
}
