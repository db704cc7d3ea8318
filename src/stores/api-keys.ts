import type { Query, Tx } from './postgres.ts';

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

export type NewApiKey = Pick<
  ApiKey,
  'id' | 'tenant' | 'name' | 'scopes' | 'hint' | 'limitPerMinute' | 'expiresAt'
> & {
  digest: Buffer;
};

/** What may change in the life of a key; a field left out stays as it is. */
export type ApiKeyChange = Partial<Pick<ApiKey, 'name' | 'scopes' | 'limitPerMinute' | 'expiresAt'>>;

const COLUMNS = `id, tenant, name, scopes, hint, limit_per_minute as "limitPerMinute", created_at as "createdAt",
  expires_at as "expiresAt", revoked_at as "revokedAt", last_used_at as "lastUsedAt", replaced_by as "replacedBy"`;

/** The SQL of the keys; shared by the auth path, the command and the keys' own API. */
export const apiKeySql = {
  /** The one query of authentication; by public id, so the digest is compared here and not searched for. */
  async findWithDigest(tx: Tx, id: string): Promise<(ApiKey & { digest: Buffer }) | undefined> {
    const rows = await tx.query<ApiKey & { digest: Buffer }>({
      name: 'api_key_find_with_digest',
      text: `select ${COLUMNS}, digest from api_key where id = $1`,
      values: [id],
    });
    return rows[0];
  },

  async find(tx: Tx, tenant: string, id: string): Promise<ApiKey | undefined> {
    const rows = await tx.query<ApiKey>({
      name: 'api_key_find',
      text: `select ${COLUMNS} from api_key where tenant = $1 and id = $2`,
      values: [tenant, id],
    });
    return rows[0];
  },

  /** As `find`, and nobody else changes the key before this transaction ends. */
  async lock(tx: Tx, tenant: string, id: string): Promise<ApiKey | undefined> {
    const rows = await tx.query<ApiKey>({
      name: 'api_key_lock',
      text: `select ${COLUMNS} from api_key where tenant = $1 and id = $2 for update`,
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
    const rows = await tx.query<ApiKey>({
      name: 'api_key_insert',
      text: `insert into api_key (id, tenant, name, scopes, digest, hint, limit_per_minute, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict (id) do nothing
        returning ${COLUMNS}`,
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
        returning ${COLUMNS}`,
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
        returning ${COLUMNS}`,
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

  /** One statement for a whole batch, forward only: an old flush never overwrites a newer one. */
  touch(usedAt: ReadonlyMap<string, number>): Query {
    return {
      name: 'api_key_touch',
      text: `update api_key set last_used_at = used.at
        from (
          select api_key.id, batch.at from api_key
          join unnest($1::text[], $2::timestamptz[]) as batch (id, at) on batch.id = api_key.id
          where api_key.last_used_at is null or api_key.last_used_at < batch.at
          order by api_key.id
          for no key update of api_key
        ) used
        where api_key.id = used.id`,
      values: [[...usedAt.keys()], [...usedAt.values()].map((at) => new Date(at))],
    };
  },
};
