#!/bin/sh
# A streaming replica. If the volume is empty, it copies the primary first. A replica that missed more than
# wal_keep_size must be copied again: remove its volume.
set -eu

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # Under another name until it is complete, so that an interrupted copy begins again.
  rm -rf "$PGDATA" "$PGDATA.copy"
  pg_basebackup --pgdata="$PGDATA.copy" --write-recovery-conf --checkpoint=fast \
    --dbname='host=postgres user=replicator passfile=/run/secrets/pgpass application_name=replica'
  mv "$PGDATA.copy" "$PGDATA"
fi
exec postgres -c config_file=/etc/postgresql/postgresql.conf
