import { AppError } from '../errors.ts';
import { createToken, digestToken, tokenHint } from './token.ts';
import type { AfterWrite, Written } from '../cache/after-write.ts';
import { apiKeySql, type ApiKey, type ApiKeyChange, type NewApiKey } from './repository.ts';
import { auditSql, type Actor, type NewAuditEvent } from './audit-log.ts';
import type { Db, Tx } from '../postgres/postgres.ts';

export interface ApiKeyAdminOptions {
  keySecret: string;
  keyEnvironment: string;
  afterWrite: AfterWrite;
}

export type CreateApiKey = Omit<NewApiKey, 'id' | 'hint' | 'digest'>;

/** A key just made: the only moment at which the token itself is known. */
export interface IssuedApiKey {
  key: ApiKey;
  token: string;
}

/** Throws when the actor may not do that to this key, or knows an older state of it. */
type Check = (current: ApiKey) => void;

/** Does the work in a transaction; unless told otherwise, in one of its own. */
type Run<T> = (work: (tx: Tx) => Promise<IssuedApiKey>) => Promise<T>;

export type ApiKeyAdmin = ReturnType<typeof createApiKeyAdmin>;

/**
 * What an administrator can do to keys, for the command and for /v1/api-keys alike: each act and
 * its audit event are one transaction, and no act returns before every process has been told, or is known
 * to be out of reach: see `Written`.
 */
export function createApiKeyAdmin(db: Db, { keySecret, keyEnvironment, afterWrite }: ApiKeyAdminOptions) {
  function store(tx: Tx, wanted: CreateApiKey, id: string, token: string): Promise<ApiKey | undefined> {
    const digest = digestToken(token, keySecret);
    return apiKeySql.insert(tx, { ...wanted, id, digest, hint: tokenHint(token) });
  }

  async function issue(tx: Tx, wanted: CreateApiKey): Promise<IssuedApiKey> {
    const { id, token } = createToken(keyEnvironment);
    const key = await store(tx, wanted, id, token);
    if (!key) throw new Error('a fresh key id was taken');
    return { key, token };
  }

  async function lock(tx: Tx, tenant: string, id: string): Promise<ApiKey> {
    const key = await apiKeySql.lock(tx, tenant, id);
    if (!key) throw new AppError('not_found', 'There is no such key');
    return key;
  }

  return {
    async create<T = IssuedApiKey>(
      wanted: CreateApiKey,
      actor: Actor,
      run: Run<T> = db.transaction as Run<T>,
    ): Promise<T> {
      const created = run(async (tx) => {
        const issued = await issue(tx, wanted);
        await audit(tx, issued.key, actor, 'api_key.created', { scopes: wanted.scopes });
        return issued;
      });
      const changes = { tenant: wanted.tenant, requestId: actor.requestId };
      return (await afterWrite(created, changes)).result;
    },

    /** Stores a key that was made elsewhere (API_KEYS); does nothing when it is known already. */
    async seed(wanted: CreateApiKey, id: string, token: string, actor: Actor): Promise<boolean> {
      const isNew = await db.transaction(async (tx) => {
        const key = await store(tx, wanted, id, token);
        if (key) await audit(tx, key, actor, 'api_key.created', { scopes: wanted.scopes, seeded: true });
        return key !== undefined;
      });
      const changes = { tenant: wanted.tenant, requestId: actor.requestId, apiKeys: [id] };
      // Somebody may have presented it already, and been told that it is unknown.
      if (isNew) await afterWrite(Promise.resolve(), changes);
      return isNew;
    },

    /**
     * A new key with everything the old one had; the old one lives on for `overlapSeconds` (0: ends
     * now), never past its own expiry.
     */
    async rotate<T = IssuedApiKey>(
      tenant: string,
      id: string,
      overlapSeconds: number,
      actor: Actor,
      check?: Check,
      run: Run<T> = db.transaction as Run<T>,
    ): Promise<Written<T>> {
      const rotated = run(async (tx) => {
        const old = await lock(tx, tenant, id);
        check?.(old);
        if (old.revokedAt || (old.expiresAt && Date.parse(old.expiresAt) <= Date.now())) {
          throw new AppError('conflict', 'This key is revoked or expired; create a new one instead');
        }
        if (old.replacedBy)
          throw new AppError('conflict', `This key was rotated before; its successor is ${old.replacedBy}`);
        const next = await issue(tx, old);
        await apiKeySql.retire(tx, old, next.key.id, overlapSeconds);
        await audit(tx, old, actor, 'api_key.rotated', { successor: next.key.id, overlapSeconds });
        return next;
      });
      return afterWrite(rotated, { tenant, requestId: actor.requestId, apiKeys: [id] });
    },

    async change(
      tenant: string,
      id: string,
      change: ApiKeyChange,
      actor: Actor,
      check?: Check,
    ): Promise<Written<ApiKey>> {
      const changed = db.transaction(async (tx) => {
        const current = await lock(tx, tenant, id);
        if (current.revokedAt) throw new AppError('not_found', 'This key was revoked');
        check?.(current);
        await audit(tx, current, actor, 'api_key.changed', { fields: Object.keys(change) });
        return apiKeySql.change(tx, { ...current, ...change } as ApiKey);
      });
      return afterWrite(changed, { tenant, requestId: actor.requestId, apiKeys: [id] });
    },

    /** Final, and the same when it is repeated. */
    async revoke(tenant: string, id: string, actor: Actor, check?: Check): Promise<Written<void>> {
      const revoked = db.transaction(async (tx) => {
        const current = await lock(tx, tenant, id);
        check?.(current);
        if (current.revokedAt) return;
        await apiKeySql.revoke(tx, tenant, id);
        await audit(tx, current, actor, 'api_key.revoked', {});
      });
      return afterWrite(revoked, { tenant, requestId: actor.requestId, apiKeys: [id] });
    },
  };
}

function audit(
  tx: Tx,
  { tenant, id }: ApiKey,
  actor: Actor,
  action: string,
  detail: NewAuditEvent['detail'],
) {
  return auditSql.append(tx, [
    { ...actor, tenant, action, object: `api_key:${id}`, outcome: 'success', detail },
  ]);
}
