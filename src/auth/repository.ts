import type { Tx } from '../postgres/postgres.ts';

/** A key as it is stored: never the key itself, only what a digest of it can be compared with. */
export interface ApiKey {
  id: string;
  tenant: string;
  name: string;
  scopes: string[];
  hint: string;
  limitPerMinute: number | null;
  createdAt: Date;
  expiresAt: Date | null;
  revokedAt: Date | null;
  lastUsedAt: Date | null;
  replacedBy: string | null;
}

/** As an ApiKey. */
export const API_KEY_COLUMNS = `id, tenant, name, scopes, hint, limit_per_minute as "limitPerMinute", created_at as "createdAt",
  expires_at as "expiresAt", revoked_at as "revokedAt", last_used_at as "lastUsedAt", replaced_by as "replacedBy"`;

/** What has to be known of a key to judge who presents it. */
export type StoredKey = Pick<ApiKey, 'id' | 'tenant' | 'scopes' | 'limitPerMinute'> & {
  digest: Buffer;
  revoked: boolean;
  /** Moment in ms at which the key ends by itself; null when it does not. */
  endsAt: number | null;
};

/** How keys are read; shared by the auth path, the command and the keys' own API. */
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
    const rows = await tx.query<ApiKey>({
      name: 'api_key_find',
      text: `select ${API_KEY_COLUMNS} from api_key where tenant = $1 and id = $2`,
      values: [tenant, id],
    });
    return rows[0];
  },

  /** As `find`, and nobody else changes the key before this transaction ends. */
  async lock(tx: Tx, tenant: string, id: string): Promise<ApiKey | undefined> {
    const rows = await tx.query<ApiKey>({
      name: 'api_key_lock',
      text: `select ${API_KEY_COLUMNS} from api_key where tenant = $1 and id = $2 for update`,
      values: [tenant, id],
    });
    return rows[0];
  },

  /**
   * Newest first; `before` is the id of the last row of the page before this one. Its moment is read
   * here, because a Date holds milliseconds only and would skip what was made in the same one.
   */
  async list(tx: Tx, tenant: string, limit: number, before?: string): Promise<ApiKey[]> {
    return tx.query<ApiKey>({
      name: before ? 'api_key_list_before' : 'api_key_list',
      text: `select ${API_KEY_COLUMNS} from api_key
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
      text: `select ${API_KEY_COLUMNS} from api_key
        where $1::text is null or tenant = $1
        order by created_at desc, id desc
        limit 1000`,
      values: [tenant ?? null],
    });
  },
};
