import { utcText } from '../postgres/utc.ts';
import type { Tx } from '../postgres/postgres.ts';

/** A key as it is stored: never the key itself, only what a digest of it can be compared with. */
export interface ApiKey {
  id: string;
  tenant: string;
  name: string;
  scopes: string[];
  hint: string;
  limitPerMinute: number | null;
  /** Times are text, as clients get them. */
  createdAt: string;
  expiresAt: string | null;
  revokedAt: string | null;
  lastUsedAt: string | null;
  replacedBy: string | null;
}

export type NewApiKey = Pick<
  ApiKey,
  'id' | 'tenant' | 'name' | 'scopes' | 'hint' | 'limitPerMinute' | 'expiresAt'
> & { digest: Buffer };

/** What may change in the life of a key; a field left out stays as it is. */
export type ApiKeyChange = {
  [Field in 'name' | 'scopes' | 'limitPerMinute' | 'expiresAt']?: ApiKey[Field] | undefined;
};

const COLUMNS = `id, tenant, name, scopes, hint, limit_per_minute as "limitPerMinute",
  ${utcText('created_at')} as "createdAt", ${utcText('expires_at')} as "expiresAt",
  ${utcText('revoked_at')} as "revokedAt", ${utcText('last_used_at')} as "lastUsedAt", replaced_by as "replacedBy"`;

/** What has to be known of a key to judge who presents it. */
export type StoredKey = Pick<ApiKey, 'id' | 'tenant' | 'scopes' | 'limitPerMinute'> & {
  digest: Buffer;
  revoked: boolean;
  /** Moment in ms at which the key ends by itself; null when it does not. */
  endsAt: number | null;
};

/** The SQL of keys. Only `createApiKeyAdmin` writes: a change that is not announced is not known everywhere. */
export const apiKeySql = {
  /** The one query of authentication; by public id, so the digest is compared here and not searched for. */
  findStored(tx: Tx, ids: string[]): Promise<StoredKey[]> {
    return tx.query<StoredKey>({
      name: 'api_key_find_stored',
      text: `select id, tenant, scopes, limit_per_minute as "limitPerMinute", digest,
          revoked_at is not null as revoked, extract(epoch from expires_at)::float8 * 1000 as "endsAt"
        from api_key where id = any($1)`,
      values: [ids],
    });
  },

  async find(tx: Tx, tenant: string, id: string): Promise<ApiKey | undefined> {
    const text = `select ${COLUMNS} from api_key where tenant = $1 and id = $2`;
    return (await tx.query<ApiKey>({ name: 'api_key_find', text, values: [tenant, id] }))[0];
  },

  /** As `find`, and nobody else changes the key before this transaction ends. */
  async lock(tx: Tx, tenant: string, id: string): Promise<ApiKey | undefined> {
    const text = `select ${COLUMNS} from api_key where tenant = $1 and id = $2 for update`;
    return (await tx.query<ApiKey>({ name: 'api_key_lock', text, values: [tenant, id] }))[0];
  },

  /**
   * Newest first; `before` is the id of the last row of the page before this one. Its moment is read
   * here, because its text holds milliseconds only and would skip what was made in the same one.
   */
  async list(tx: Tx, tenant: string, limit: number, before?: string): Promise<ApiKey[]> {
    return tx.query<ApiKey>({
      name: before ? 'api_key_list_before' : 'api_key_list',
      text: `select ${COLUMNS} from api_key
        where tenant = $1
          ${before ? 'and (created_at, id) < (select created_at, id from api_key where tenant = $1 and id = $3)' : ''}
        order by created_at desc, id desc
        limit $2`,
      values: before ? [tenant, limit, before] : [tenant, limit],
    });
  },

  /** For the command: of one tenant or of all, newest first, at most a thousand. */
  async listForPeople(tx: Tx, tenant: string | undefined): Promise<ApiKey[]> {
    return tx.query<ApiKey>({
      name: 'api_key_list_for_people',
      text: `select ${COLUMNS} from api_key
        where $1::text is null or tenant = $1
        order by created_at desc, id desc
        limit 1000`,
      values: [tenant ?? null],
    });
  },

  /** Undefined when a key of this id exists already. */
  async insert(tx: Tx, key: NewApiKey): Promise<ApiKey | undefined> {
    const { id, tenant, name, scopes, digest, hint, limitPerMinute, expiresAt } = key;
    const rows = await tx.query<ApiKey>({
      name: 'api_key_insert',
      text: `insert into api_key (id, tenant, name, scopes, digest, hint, limit_per_minute, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict (id) do nothing
        returning ${COLUMNS}`,
      values: [id, tenant, name, scopes, digest, hint, limitPerMinute, expiresAt],
    });
    return rows[0];
  },

  /** Of a key that this transaction has locked. */
  async change(tx: Tx, key: ApiKey): Promise<ApiKey> {
    const { id, tenant, name, scopes, limitPerMinute, expiresAt } = key;
    const [changed] = await tx.query<ApiKey>({
      name: 'api_key_change',
      text: `update api_key set name = $3, scopes = $4, limit_per_minute = $5, expires_at = $6
        where tenant = $1 and id = $2
        returning ${COLUMNS}`,
      values: [tenant, id, name, scopes, limitPerMinute, expiresAt],
    });
    return changed as ApiKey;
  },

  /** Of a key that this transaction has locked. */
  async revoke(tx: Tx, tenant: string, id: string): Promise<void> {
    const text = 'update api_key set revoked_at = now() where tenant = $1 and id = $2';
    await tx.query({ name: 'api_key_revoke', text, values: [tenant, id] });
  },

  /** Ends the old key of a rotation: after the overlap, never later than its own expiry, at once for 0. */
  async retire(tx: Tx, old: ApiKey, replacedBy: string, overlapSeconds: number): Promise<void> {
    await tx.query({
      name: 'api_key_retire',
      text: `update api_key set
          replaced_by = $3,
          revoked_at = case when $4 = 0 then now() end,
          expires_at = case when $4 = 0 then expires_at
            else least(coalesce(expires_at, 'infinity'), now() + make_interval(secs => $4)) end
        where tenant = $1 and id = $2`,
      values: [old.tenant, old.id, replacedBy, overlapSeconds],
    });
  },
};
