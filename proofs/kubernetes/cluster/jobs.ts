import type { ClusterWorld } from '../environment.ts';
import { expect, until, type Report } from '../../stack/report.ts';

const CRONJOBS = ['hardpoint-backup', 'hardpoint-restore-test'];

/** The commands of docs/kubernetes.md that begin a backup or a test of one now. */
export async function proveCronJobs({ cluster, pods }: ClusterWorld, report: Report): Promise<void> {
  await cluster.call('POST', '/api/v1/persistentvolumes', {
    metadata: { name: 'backups' },
    spec: {
      capacity: { storage: '20Gi' },
      accessModes: ['ReadWriteOnce'],
      nfs: { server: '10.0.0.9', path: '/backups' },
    },
  });
  for (const name of CRONJOBS) {
    await report.check(`kubectl create job --from=cronjob/${name} makes a pod that is admitted`, async () => {
      const job = `${name}-now`;
      const output = await cluster.kubectl('-n', 'hardpoint', 'create', 'job', `--from=cronjob/${name}`, job);
      expect(!/warning/i.test(output), output);
      let node = '';
      await until('its pod has a node', async () => {
        const made = (await pods('backup')).find(({ metadata }) => metadata.name.startsWith(job));
        node = made?.spec.nodeName ?? '';
        return node !== '';
      });
      return `${output}, on ${node}`;
    });
  }
}
