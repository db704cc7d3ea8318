/**
 * What else is scraped besides the service, as far as a rule or a dashboard reads it; in the names of
 * postgres_exporter 0.19, redis_exporter 1.86, nginx-prometheus-exporter 1.5, …
 */
export const EXPORTER_SERIES = `
pg_up 1
pg_stat_database_numbackends{datname="postgres"} 1
pg_stat_database_xact_commit{datname="postgres"} 1
pg_stat_database_xact_rollback{datname="postgres"} 0
pg_stat_database_blks_hit{datname="postgres"} 1
pg_stat_database_blks_read{datname="postgres"} 1
pg_stat_database_deadlocks{datname="postgres"} 0
pg_stat_activity_count{datname="postgres",state="active"} 1
pg_stat_activity_max_tx_duration{datname="postgres",state="active"} 0
pg_database_size_bytes{datname="postgres"} 1
pg_settings_max_connections{server="postgres:5432"} 100
redis_up 1
redis_memory_used_bytes 1
redis_memory_max_bytes 1
redis_instance_info{maxmemory_policy="noeviction"} 1
redis_commands_processed_total 1
redis_evicted_keys_total 0
redis_connected_clients 1
redis_rejected_connections_total 0
nginx_up 1
node_memory_MemAvailable_bytes 1
node_memory_MemTotal_bytes 1
node_filesystem_avail_bytes{fstype="ext4",mountpoint="/"} 1
node_filesystem_size_bytes{fstype="ext4",mountpoint="/"} 1
probe_success 1
probe_ssl_earliest_cert_expiry 1
backup_last_success_timestamp_seconds 1
backup_restore_test_last_success_timestamp_seconds 1
prometheus_rule_evaluation_failures_total 0
alertmanager_notifications_failed_total{integration="slack"} 0
up{job="api"} 1
ALERTS{alertstate="firing",severity="warning"} 1
`;
