#!/bin/sh
# A streaming replica: copies the primary when its volume is empty, and follows it from then on. One that was away
# for longer than wal_keep_size lasts has to be copied anew: remove its volume.
set -eu

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # Under another name until it is whole: what was cut off counts as nothing.
  rm -rf "$PGDATA" "$PGDATA.copy"
  pg_basebackup --pgdata="$PGDATA.copy" --write-recovery-conf --checkpoint=fast \
    --dbname='host=postgres user=replicator passfile=/run/secrets/pgpass application_name=replica'
  mv "$PGDATA.copy" "$PGDATA"
fi
exec postgres -c config_file=/etc/postgresql/postgresql.conf
