# Backup and restore for Kubernetes, where no folder of the host is mounted:
#   docker build -f docker/backup.Dockerfile -t hardpoint-backup .
FROM postgres:18.6
COPY --chmod=0555 scripts/common.sh scripts/secret.sh scripts/backup.sh scripts/restore.sh scripts/restore-drill.sh /scripts/
USER 999:999
ENTRYPOINT ["/scripts/backup.sh"]
CMD ["run"]
