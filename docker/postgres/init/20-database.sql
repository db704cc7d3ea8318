-- What each role may do in this database: run once when it is made, and again on one that was restored.
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
-- A function that migrations make may be called by the service, not by everybody.
alter default privileges for role migrator revoke execute on functions from public;
alter default privileges for role migrator in schema public grant execute on functions to app;

-- Large objects belong to no table, so that no grant of a table bounds them, and a backup does not count them.
revoke execute on function lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) from public;

create extension if not exists pg_stat_statements;
-- The extension is in there; of tables the role `monitor` reads none.
grant usage on schema public to monitor;
