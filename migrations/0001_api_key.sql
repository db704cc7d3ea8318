-- API keys: who may call, with which scopes, until when.
--
-- The table never holds a key. A token is hp_<env>_<id>_<secret><crc>; we keep its public id (the
-- primary key, so the check of a request is one lookup) and a 32-byte digest of the secret. A dump of
-- this table opens nothing.
--
-- Rows are not deleted: revoked_at and expires_at end a key, and the row stays so that a request with
-- an old key can still be named in the audit log.

-- Up Migration
create table api_key (
  id text primary key check (id ~ '^[0-9A-Za-z]{1,32}$'),
  tenant text not null check (tenant ~ '^[a-z0-9][a-z0-9_-]{0,63}$'),
  name text not null check (char_length(name) <= 100),
  -- Deny by default: an empty array is a key that may do nothing.
  scopes text[] not null,
  digest bytea not null check (octet_length(digest) = 32),
  -- The last characters of the secret, so that people can tell two keys apart in a list.
  hint text not null check (char_length(hint) <= 4),
  -- null: the service's own limit holds.
  limit_per_minute integer check (limit_per_minute > 0),
  created_at timestamptz not null default now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  -- Written in batches, so it may lag by seconds. Good for "is anybody still using this key?".
  last_used_at timestamptz,
  -- Set by a rotation. Not indexed: nobody looks keys up by it, and without deletes nothing checks it.
  replaced_by text references api_key (id)
)
-- last_used_at is the column that is written most and stands in no index: spare room on each page
-- lets Postgres rewrite the row in place (HOT) and leave the indexes alone.
with (fillfactor = 90);

-- "My keys, newest first, next page": where tenant and (created_at, id) < cursor.
create index api_key_tenant_newest on api_key (tenant, created_at desc, id desc);

-- Down Migration
-- Every key is lost and every client locked out: keys cannot be made again from anything we keep.
drop table api_key;
