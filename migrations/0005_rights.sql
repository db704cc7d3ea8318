-- What the roles of docker/postgres/init may not do, though it is the default for tables of this schema. On a server
-- without these roles nothing happens.
--
-- The service reads which migrations were applied and never writes that. People who look see neither digests of keys
-- nor what was answered to others. A column that is added later has to be granted to `readonly` by name.

-- Up Migration
do $$
begin
  if exists (select from pg_roles where rolname = 'app') then
    revoke insert, update, delete on public.schema_migration, public.schema_migration_checksum from app;
    revoke all on sequence public.schema_migration_id_seq from app;
  end if;
  if exists (select from pg_roles where rolname = 'readonly') then
    revoke select on api_key, idempotency_record from readonly;
    grant select (id, tenant, name, scopes, hint, limit_per_minute, created_at, expires_at, revoked_at, last_used_at,
      replaced_by) on api_key to readonly;
    grant select (tenant, key, status, created_at, expires_at) on idempotency_record to readonly;
  end if;
end $$;

-- Down Migration
do $$
begin
  if exists (select from pg_roles where rolname = 'app') then
    grant insert, update, delete on public.schema_migration, public.schema_migration_checksum to app;
    grant usage, select on sequence public.schema_migration_id_seq to app;
  end if;
  if exists (select from pg_roles where rolname = 'readonly') then
    grant select on api_key, idempotency_record to readonly;
  end if;
end $$;
