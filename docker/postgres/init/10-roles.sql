-- Runs once, when the volume is empty. Each role has only the permissions that it needs. psql reads the passwords
-- from the files that setup wrote, so they are in no environment and in no log.
\set ON_ERROR_STOP on
\set migrator `cat /run/secrets/migrator`
\set app `cat /run/secrets/app`
\set readonly `cat /run/secrets/readonly`
\set backup `cat /run/secrets/backup`
\set monitor `cat /run/secrets/monitor`
\set replicator `cat /run/secrets/replicator`

set password_encryption = 'scram-sha-256';

-- Owns the schema and is the only role that may change it.
create role migrator login password :'migrator' connection limit 5;
-- The service. It may change rows, without DDL and truncate. Triggers protect past events of the audit log from every role.
create role app login password :'app';
-- For people and reports.
create role readonly login password :'readonly' connection limit 5;
alter role readonly set default_transaction_read_only = on;
alter role readonly set statement_timeout = '60s';
-- Backups. It reads everything, writes nothing, and creates the scratch database for the test restore.
create role backup login createdb password :'backup' connection limit 3;
grant pg_read_all_data to backup;
-- For postgres_exporter.
create role monitor login password :'monitor' connection limit 3;
grant pg_monitor to monitor;
-- For streaming replicas.
create role replicator login replication password :'replicator' connection limit 5;
