import { API_KEY_COLUMNS, type ApiKey } from './repository.ts';
import type { Tx } from '../postgres/postgres.ts';

export type NewApiKey = Pick<
  ApiKey,
  'id' | 'tenant' | 'name' | 'scopes' | 'hint' | 'limitPerMinute' | 'expiresAt'
> & {
  digest: Buffer;
};

/** What may change in the life of a key; a field left out stays as it is. */
export type ApiKeyChange = Partial<Pick<ApiKey, 'name' | 'scopes' | 'limitPerMinute' | 'expiresAt'>>;

/** How keys are written. Only by `createApiKeyAdmin`: a change that is not announced is not known everywhere. */
export const apiKeyChangeSql = {
  /** Undefined when a key of this id exists already. */
  async insert(tx: Tx, key: NewApiKey): Promise<ApiKey | undefined> {
    const rows = await tx.query<ApiKey>({
      name: 'api_key_insert',
      text: `insert into api_key (id, tenant, name, scopes, digest, hint, limit_per_minute, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict (id) do nothing
        returning ${API_KEY_COLUMNS}`,
      values: [
        key.id,
        key.tenant,
        key.name,
        key.scopes,
        key.digest,
        key.hint,
        key.limitPerMinute,
        key.expiresAt,
      ],
    });
    return rows[0];
  },

  /** Undefined when there is no such key or it was revoked: revocation is final. */
  async change(tx: Tx, tenant: string, id: string, change: ApiKeyChange): Promise<ApiKey | undefined> {
    const rows = await tx.query<ApiKey>({
      name: 'api_key_change',
      text: `update api_key set
          name = case when $3 then $4 else name end,
          scopes = case when $5 then $6 else scopes end,
          limit_per_minute = case when $7 then $8 else limit_per_minute end,
          expires_at = case when $9 then $10 else expires_at end
        where tenant = $1 and id = $2 and revoked_at is null
        returning ${API_KEY_COLUMNS}`,
      values: [
        tenant,
        id,
        ...(['name', 'scopes', 'limitPerMinute', 'expiresAt'] as const).flatMap((field) => [
          field in change,
          change[field] ?? null,
        ]),
      ],
    });
    return rows[0];
  },

  /** Revokes now; undefined when there is no such key or it was revoked before. */
  async revoke(tx: Tx, tenant: string, id: string): Promise<ApiKey | undefined> {
    const rows = await tx.query<ApiKey>({
      name: 'api_key_revoke',
      text: `update api_key set revoked_at = now()
        where tenant = $1 and id = $2 and revoked_at is null
        returning ${API_KEY_COLUMNS}`,
      values: [tenant, id],
    });
    return rows[0];
  },

  /** Ends the old key of a rotation: after the overlap, never later than its own expiry, at once for 0. */
  async retire(
    tx: Tx,
    tenant: string,
    id: string,
    replacedBy: string,
    overlapSeconds: number,
  ): Promise<void> {
    await tx.query({
      name: 'api_key_retire',
      text: `update api_key set
          replaced_by = $3,
          revoked_at = case when $4 = 0 then now() end,
          expires_at = case when $4 = 0 then expires_at
            else least(coalesce(expires_at, 'infinity'), now() + make_interval(secs => $4)) end
        where tenant = $1 and id = $2`,
      values: [tenant, id, replacedBy, overlapSeconds],
    });
  },
};
