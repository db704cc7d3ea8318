-- Permissions of the roles in this database. Runs when the database is created, and again on a restored one.
\set ON_ERROR_STOP on

select current_database() as database \gset
alter database :"database" owner to migrator;
revoke all on database :"database" from public;
grant connect on database :"database" to app, readonly, backup, monitor;
revoke all on schema public from public;
alter schema public owner to migrator;
grant usage on schema public to app, readonly;
alter default privileges for role migrator in schema public grant select, insert, update, delete on tables to app;
alter default privileges for role migrator in schema public grant usage, select on sequences to app;
alter default privileges for role migrator in schema public grant select on tables to readonly;
-- Only the service may call functions that migrations create.
alter default privileges for role migrator revoke execute on functions from public;
alter default privileges for role migrator in schema public grant execute on functions to app;

-- Large objects belong to no table, so no table permission restricts them and the backup does not count them.
revoke execute on function lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) from public;

create extension if not exists pg_stat_statements;
-- The extension is in this schema. The role `monitor` reads no table.
grant usage on schema public to monitor;
