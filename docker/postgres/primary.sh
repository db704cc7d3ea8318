#!/bin/sh
# Starts Postgres. If the volume is empty, it creates the database first. The image's own entrypoint is not used,
# because it would leave the superuser's password in the environment of every process.
set -eu

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # Under another name until it is complete, so that an interrupted start begins again.
  rm -rf "$PGDATA.new"
  initdb --pgdata="$PGDATA.new" --username=postgres --pwfile=/run/secrets/superuser --encoding=UTF8 \
    --auth-host=scram-sha-256 --auth-local=trust --data-checksums
  pg_ctl --pgdata="$PGDATA.new" --wait --options="-c config_file=/etc/postgresql/postgresql.conf -c listen_addresses=" start
  createdb --username=postgres hardpoint
  for file in /etc/postgresql/init/*.sql; do
    psql --no-psqlrc --quiet --username=postgres --dbname=hardpoint --file="$file"
  done
  pg_ctl --pgdata="$PGDATA.new" --wait --mode=fast stop
  rm -rf "$PGDATA"
  mv "$PGDATA.new" "$PGDATA"
fi
exec postgres -c config_file=/etc/postgresql/postgresql.conf
