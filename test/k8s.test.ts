import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { parse, parseAllDocuments } from 'yaml';
import { configChecksum } from '../scripts/k8s-checksum.ts';
import { VARIABLES } from '../src/config-variables.ts';
import { loadConfig } from '../src/config.ts';
import { shutdownBudgetMs } from '../src/lifecycle.ts';
import { startTestApp } from './support/app.ts';
import { repositoryDir } from './support/servers.ts';

interface Container {
  name: string;
  image: string;
  args?: string[];
  env?: { name: string; value?: string }[];
  ports?: { name: string; containerPort: number }[];
  securityContext: object;
  resources: { requests: Record<string, string>; limits: Record<string, string> };
  volumeMounts: { name: string; mountPath: string; readOnly?: boolean }[];
  lifecycle?: { preStop: { sleep: { seconds: number } } };
  startupProbe?: Probe;
  livenessProbe?: Probe;
  readinessProbe?: Probe;
}
interface Probe {
  httpGet: { path: string; port: string };
}
interface PodSpec {
  serviceAccountName: string;
  automountServiceAccountToken: boolean;
  terminationGracePeriodSeconds?: number;
  securityContext: object;
  initContainers?: Container[];
  containers: Container[];
  volumes: { name: string; secret?: { secretName: string }; emptyDir?: { sizeLimit?: string } }[];
}
interface Manifest {
  kind: string;
  apiVersion: string;
  metadata: { name: string; namespace?: string; labels: Record<string, string> };
  data?: Record<string, string>;
  spec: Record<string, any>;
}

const folder = join(repositoryDir, 'k8s');
const files = readdirSync(folder).filter((name) => name.endsWith('.yaml'));
const manifests = files.map((file) => ({ file, text: readFileSync(join(folder, file), 'utf8') }));
const objects = manifests.map(({ text }) => parse(text) as Manifest);
const { version } = JSON.parse(readFileSync(join(repositoryDir, 'package.json'), 'utf8'));

function find(kind: string, name?: string): Manifest {
  const found = objects.find((each) => each.kind === kind && (!name || each.metadata.name.includes(name)));
  if (!found) throw new Error(`no ${kind} ${name ?? ''}`);
  return found;
}

const podsOf = ({ kind, spec }: Manifest): PodSpec[] => {
  if (kind === 'CronJob') return [spec.jobTemplate.spec.template.spec];
  return kind === 'Deployment' || kind === 'Job' ? [spec.template.spec] : [];
};
const pods = objects.flatMap(podsOf);
const containers = pods.flatMap((pod) => [...(pod.initContainers ?? []), ...pod.containers]);
const deployment = find('Deployment');
const [pod] = podsOf(deployment) as [PodSpec];
const [api] = pod.containers as [Container];
const { data: values = {} } = find('ConfigMap');
const config = loadConfig({
  ...values,
  DATABASE_URL: 'postgres://app:only-for-tests@db.internal/app?sslmode=verify-full',
  API_KEY_SECRET: 'only-for-tests-8b1f0c6d2e9a4753-51f6',
  SECRET_KEY: 'only-for-tests-8b1f0c6d2e9a4753-51f7',
}).config;

t.test('one apply of the folder brings everything, in order, and needs nothing but Kubernetes', async (t) => {
  t.same(files.toSorted(), files, 'numbered');
  for (const { file, text } of manifests) t.equal(parseAllDocuments(text).length, 1, `${file} is one object`);
  t.equal(objects[0]?.kind, 'Namespace');
  const order = objects.map(({ kind }) => kind);
  t.ok(
    order.indexOf('ConfigMap') < order.indexOf('Job') && order.indexOf('Job') < order.indexOf('Deployment'),
  );
  t.notOk(order.some((kind) => ['Secret', 'Kustomization', 'CustomResourceDefinition'].includes(kind)));
  for (const { kind, apiVersion, metadata } of objects) {
    t.match(apiVersion, /^(v1|(apps|batch|policy|autoscaling|networking\.k8s\.io)\/v[12])$/, kind);
    if (kind !== 'Namespace') t.equal(metadata.namespace, find('Namespace').metadata.name, metadata.name);
  }
});

t.test('every pod is restricted, and says what it needs', async (t) => {
  const levels = Object.entries(find('Namespace').metadata.labels).filter(([key]) =>
    key.includes('pod-security'),
  );
  t.same(new Set(levels.map(([, level]) => level)), new Set(['restricted']));
  t.equal(levels.length, 3);
  t.equal(
    (find('ServiceAccount') as { automountServiceAccountToken?: boolean }).automountServiceAccountToken,
    false,
  );
  for (const each of pods) {
    t.equal(each.automountServiceAccountToken, false);
    t.match(each.securityContext, {
      runAsNonRoot: true,
      runAsUser: Number,
      seccompProfile: { type: 'RuntimeDefault' },
    });
    for (const { emptyDir } of each.volumes) if (emptyDir) t.ok(emptyDir.sizeLimit, 'bounded');
  }
  for (const { name, securityContext, resources, volumeMounts, env = [] } of containers) {
    t.same(securityContext, {
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    });
    for (const amounts of [resources.requests, resources.limits])
      t.same(Object.keys(amounts).toSorted(), ['cpu', 'ephemeral-storage', 'memory'], name);
    t.ok(
      volumeMounts.find((mount) => mount.mountPath.startsWith('/run/secrets'))?.readOnly,
      'secrets are files',
    );
    t.notOk(
      env.some(
        (each) => /SECRET|PASSWORD|DATABASE_URL|REDIS/.test(each.name) && !each.name.endsWith('_FILE'),
      ),
    );
  }
});

t.test('images, Job and labels are those of this release', async (t) => {
  for (const { image } of containers) t.ok(image.endsWith(`:${version}`), image);
  t.equal(find('Job').metadata.name.endsWith(`migrate-${version.replaceAll('.', '-')}`), true);
  for (const kind of ['Job', 'Deployment', 'CronJob'])
    t.equal(find(kind).metadata.labels['app.kubernetes.io/version'], version);
});

t.test('the configuration is one that the service knows, and its change rolls the pods', async (t) => {
  const known = Object.keys(VARIABLES);
  t.same(
    Object.keys(values).filter((name) => !known.includes(name)),
    [],
  );
  const names = containers
    .flatMap(({ env = [] }) => env.map(({ name }) => name))
    .filter((name) => name !== 'NODE_OPTIONS');
  const ofBackup = new Set(['PGHOST', 'PGDATABASE', 'PGUSER', 'PASSWORD_FILE', 'BACKUP_PASSPHRASE_FILE']);
  t.same(
    names.filter((name) => !ofBackup.has(name) && !known.includes(name.replace(/_FILE$/, ''))),
    [],
  );
  const text = manifests.find(({ file }) => file.includes('configmap'))?.text ?? '';
  t.equal(
    deployment.spec.template.metadata.annotations['checksum/config'],
    configChecksum(text),
    'run: npm run k8s:checksum',
  );
  const example = parseAllDocuments(readFileSync(join(folder, 'optional/secret.example.yaml'), 'utf8')).map(
    (document) => document.toJS() as { metadata: { name: string }; stringData: Record<string, string> },
  );
  for (const { volumes, containers: own } of pods) {
    const { secretName } = volumes.find(({ secret }) => secret)?.secret ?? {};
    const keys = Object.keys(example.find(({ metadata }) => metadata.name === secretName)?.stringData ?? {});
    const used = own
      .flatMap(({ env = [] }) => env.map(({ value = '' }) => value))
      .filter((path) => path.startsWith('/run/secrets/'));
    const optional = ['passphrase'];
    t.same(
      used
        .map((path) => path.split('/').at(-1) ?? '')
        .filter((key) => !keys.includes(key) && !optional.includes(key)),
      [],
      secretName ?? '',
    );
  }
});

t.test('a rollout loses no request: probes, ports and times fit the service', async (t) => {
  t.match(deployment.spec.strategy, {
    type: 'RollingUpdate',
    rollingUpdate: { maxUnavailable: 0, maxSurge: 1 },
  });
  t.ok(deployment.spec.minReadySeconds > 0);
  const ports = Object.fromEntries((api.ports ?? []).map(({ name, containerPort }) => [name, containerPort]));
  t.same(ports, { http: config.http.port, metrics: config.http.metricsPort });
  const preStopMs = (api.lifecycle?.preStop.sleep.seconds ?? 0) * 1000;
  t.ok(preStopMs > 0);
  t.ok((pod.terminationGracePeriodSeconds ?? 0) * 1000 >= preStopMs + shutdownBudgetMs(config.lifecycle));

  const { app } = await startTestApp(t);
  const probes = [api.startupProbe, api.livenessProbe, api.readinessProbe].map((probe) => probe?.httpGet);
  t.same(
    probes.map((probe) => probe?.path),
    ['/health/live', '/health/live', '/health/ready'],
  );
  const rules: { path: string; pathType: string }[] = find('Ingress').spec.rules[0].http.paths;
  const exact = [
    ...probes.map((probe) => probe?.path ?? ''),
    ...rules.filter(({ pathType }) => pathType === 'Exact').map(({ path }) => path),
  ];
  for (const url of exact) t.ok(app.hasRoute({ method: 'GET', url }), url);
  const reachable = ['/metrics', '/internal/status'].filter((path) =>
    rules.some((rule) => path.startsWith(rule.path)),
  );
  t.same(reachable, [], 'internal paths are not routed');

  const heapMb = Number(/--max-old-space-size=(\d+)/.exec(JSON.stringify(api.env))?.[1]);
  t.ok(heapMb <= 0.75 * Number.parseInt(api.resources.limits.memory ?? '', 10), 'the heap fits the limit');
});

t.test(
  'the autoscaler owns the number of pods, and Postgres has a connection for each of them',
  async (t) => {
    t.notOk('replicas' in deployment.spec);
    const { minReplicas, maxReplicas, scaleTargetRef } = find('HorizontalPodAutoscaler').spec;
    t.same([minReplicas, maxReplicas, scaleTargetRef.name], [3, 10, deployment.metadata.name]);
    t.equal(config.rateLimit.expectedReplicas, maxReplicas);
    const budget = find('PodDisruptionBudget').spec;
    t.ok(budget.maxUnavailable >= 1 && budget.maxUnavailable < minReplicas, 'never blocks all evictions');

    const settings = readFileSync(join(repositoryDir, 'docker/postgres/postgresql.conf'), 'utf8');
    const maxConnections = Number(/^max_connections = (\d+)/m.exec(settings)?.[1]);
    const surge = 1;
    const others = 3;
    const wanted = (maxReplicas + surge) * config.postgres.poolMax + others;
    t.ok(wanted <= 0.8 * maxConnections, `${wanted} of ${maxConnections}`);
  },
);

t.test('nothing is reached that is not named: default deny, then exactly what is needed', async (t) => {
  const policies = objects.filter(({ kind }) => kind === 'NetworkPolicy').map(({ spec }) => spec);
  t.same(policies[0], { podSelector: {}, policyTypes: ['Ingress', 'Egress'] });
  const portsOf = (rules: { ports: { port: number | string }[] }[] = []) =>
    rules.flatMap(({ ports }) => ports.map(({ port }) => port));
  const [, ofApi, ofJobs] = policies;
  t.same(portsOf(ofApi?.ingress), ['http', 'metrics']);
  t.same(portsOf(ofApi?.egress), [53, 53, 5432, 6379]);
  t.same([ofJobs?.ingress, portsOf(ofJobs?.egress)], [undefined, [53, 53, 5432]]);
  for (const { ingress = [], egress = [] } of policies)
    for (const rule of [...ingress, ...egress]) t.ok(rule.from ?? rule.to, 'from and to somebody');
});
