import { join } from 'node:path';
import { podsOf, tryPod } from './cluster/admission.ts';
import type { Cluster } from './cluster/cluster.ts';
import { MANIFESTS, readObjects } from '../../tools/k8s/manifests.ts';
import { downloadModule } from './cluster/modules.ts';
import { expect, type Report } from '../stack/report.ts';

const OPTIONAL = join(MANIFESTS, 'optional');

const GATEWAY = 'sigs.k8s.io/gateway-api@v1.6.3';
const OPERATOR = 'github.com/prometheus-operator/prometheus-operator@v0.92.1';
const OPERATOR_FILES = 'example/prometheus-operator-crd/monitoring.coreos.com_';

/** Where the definitions of the kinds come from that Kubernetes itself does not have. */
const DEFINITIONS = {
  'httproute.yaml': {
    module: GATEWAY,
    file: 'config/crd/standard/gateway.networking.k8s.io_httproutes.yaml',
  },
  'servicemonitor.yaml': { module: OPERATOR, file: `${OPERATOR_FILES}servicemonitors.yaml` },
  'prometheusrule.yaml': { module: OPERATOR, file: `${OPERATOR_FILES}prometheusrules.yaml` },
};

/** What stands in k8s/optional is accepted as well, once the cluster has what it asks for. */
export async function proveOptional(cluster: Cluster, report: Report): Promise<void> {
  for (const name of ['postgres.yaml', 'redis.yaml']) {
    await report.check(`optional/${name} is accepted, and its pods are`, async () => {
      const file = join(OPTIONAL, name);
      const output = await cluster.kubectl('apply', '-f', file);
      expect(!/warning/i.test(output), output);
      for (const pod of readObjects(file).flatMap(podsOf)) await tryPod(cluster, pod.name, pod.spec);
      return output.split('\n').join(', ');
    });
  }
  for (const [name, { module, file }] of Object.entries(DEFINITIONS)) {
    await report.check(`optional/${name} fits the definition of its kind`, async () => {
      const definition = join((await downloadModule(module)).dir, file);
      await cluster.kubectl('apply', '--server-side', '-f', definition);
      await cluster.kubectl('wait', '--for=condition=Established', '-f', definition, '--timeout=30s');
      const output = await cluster.kubectl('apply', '--validate=strict', '-f', join(OPTIONAL, name));
      expect(!/warning/i.test(output), output);
      return `${output}, ${module}`;
    });
  }
}
