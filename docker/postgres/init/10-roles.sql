-- Runs once, when the volume is empty. Five roles, each with what its work needs and no more. Passwords
-- come from the files that setup made; psql reads them, so they stand in no environment and no log.
\set ON_ERROR_STOP on
\set migrator `cat /run/secrets/migrator`
\set app `cat /run/secrets/app`
\set readonly `cat /run/secrets/readonly`
\set backup `cat /run/secrets/backup`
\set monitor `cat /run/secrets/monitor`
\set replicator `cat /run/secrets/replicator`

set password_encryption = 'scram-sha-256';

-- Owns the schema: the only one that may change it.
create role migrator login password :'migrator' connection limit 5;
-- The service: rows, no DDL, no truncate; triggers guard the past of the audit log from every role.
create role app login password :'app';
-- People who look, and reports.
create role readonly login password :'readonly' connection limit 5;
alter role readonly set default_transaction_read_only = on;
alter role readonly set statement_timeout = '60s';
-- Dumps: reads everything, writes nothing; makes the scratch database in which a dump is restored.
create role backup login createdb password :'backup' connection limit 3;
grant pg_read_all_data to backup;
-- The exporter.
create role monitor login password :'monitor' connection limit 3;
grant pg_monitor to monitor;
-- Streaming replicas.
create role replicator login replication password :'replicator' connection limit 5;
