import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import t from 'tap';
import { parseAllDocuments } from 'yaml';
import { configChecksum } from '../../tools/k8s/checksum.ts';
import { withRules } from '../../tools/k8s/rules.ts';
import { withVersion } from '../../tools/k8s/version.ts';
import { CONNECTIONS_OF_CHECKS } from '../../src/postgres/postgres.ts';
import { VARIABLES } from '../../src/config/variables.ts';
import { readRules } from '../support/alert-rules.ts';
import {
  api,
  config,
  containersOf,
  deployment,
  find,
  manifests,
  objects,
  optional,
  podsOf,
  values,
  type Container,
} from '../support/manifests.ts';
import { readCompose, readText } from '../support/compose.ts';
import { repositoryDir } from '../support/servers.ts';

const { version } = JSON.parse(readFileSync(join(repositoryDir, 'package.json'), 'utf8'));
const pods = objects.flatMap(podsOf);
const containers = pods.flatMap(containersOf);
const portsOf = (rules: { ports: { port: number | string }[] }[] = []) =>
  rules.flatMap(({ ports }) => ports.map(({ port }) => port));

t.test('one apply of the folder brings everything, in order, and needs nothing but Kubernetes', async (t) => {
  for (const { file, text } of manifests) {
    t.equal(parseAllDocuments(text).length, 1, `${file} is one object`);
    t.match(file, /^\d\d-[a-z-]+\.yaml$/);
  }
  t.equal(objects[0]?.kind, 'Namespace');
  const order = objects.map(({ kind }) => kind);
  for (const [first, then] of [
    ['NetworkPolicy', 'Job'],
    ['ServiceAccount', 'Job'],
    ['ConfigMap', 'Job'],
    ['Job', 'Deployment'],
  ] as const)
    t.ok(order.lastIndexOf(first) < order.indexOf(then), `${first} comes before ${then}`);
  t.notOk(order.some((kind) => ['Secret', 'Kustomization', 'CustomResourceDefinition'].includes(kind)));
  for (const { kind, apiVersion, metadata } of objects) {
    t.match(apiVersion, /^(v1|(apps|batch|policy|autoscaling|networking\.k8s\.io)\/v[12])$/, kind);
    if (kind !== 'Namespace') t.equal(metadata.namespace, find('Namespace').metadata.name, metadata.name);
  }
});

t.test('names are given once, and whoever names another object means one that is there', async (t) => {
  const names = objects.map(({ kind, metadata: { name } }) => `${kind} ${name}`);
  t.equal(new Set(names).size, names.length);
  for (const { serviceAccountName } of pods)
    t.equal(serviceAccountName, find('ServiceAccount').metadata.name);
  const { http } = find('Ingress').spec.rules[0];
  for (const { backend } of http.paths) t.equal(backend.service.name, find('Service', 'api').metadata.name);
  const claims = pods.flatMap(
    ({ volumes }) => volumes as { persistentVolumeClaim?: { claimName: string } }[],
  );
  const claimed = new Set(
    claims.flatMap(({ persistentVolumeClaim }) => persistentVolumeClaim?.claimName ?? []),
  );
  t.same([...claimed], [find('PersistentVolumeClaim').metadata.name]);
  // Every selector selects: the pods of the Deployment, and for policies those of Jobs as well.
  const { labels } = deployment.spec.template.metadata;
  for (const selector of [
    deployment.spec.selector.matchLabels,
    find('Service', 'api').spec.selector,
    find('Service', 'metrics').spec.selector,
    find('PodDisruptionBudget').spec.selector.matchLabels,
    find('NetworkPolicy', 'api').spec.podSelector.matchLabels,
  ])
    t.match(labels, selector);
});

t.test('images, Job and labels are those of this release', async (t) => {
  for (const { image } of containers) t.ok(image.endsWith(`:${version}`), image);
  t.equal(find('Job').metadata.name.endsWith(`migrate-${version.replaceAll('.', '-')}`), true);
  const versioned = objects.filter((object) => podsOf(object).length > 0);
  for (const { metadata } of versioned) t.equal(metadata.labels['app.kubernetes.io/version'], version);
  const [init] = podsOf(deployment)[0]?.initContainers ?? [];
  t.equal(init?.image, api.image, 'what waits for the schema is the release that needs it');
  t.equal(podsOf(find('Job'))[0]?.containers[0]?.image, api.image, 'and the Job is the one that makes it');

  const other = manifests.map(({ text }) => withVersion(text, '1.23.4-rc.5')).join('\n');
  t.notOk(
    other.includes(version) || other.includes(version.replaceAll('.', '-')),
    'a release changes them all',
  );
  t.match(other, 'name: hardpoint-migrate-1-23-4-rc-5');
  t.match(withVersion('image: registry:5000/a/b:0.1.0', '0.2.0'), 'registry:5000/a/b:0.2.0');
});

t.test('the configuration is one that the service knows, and its change rolls the pods', async (t) => {
  const known = [...VARIABLES.keys()];
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
  const scripts = readFileSync(join(repositoryDir, 'scripts/backup.sh'), 'utf8');
  for (const name of ofBackup) t.match(scripts, name, 'and the backup knows its own');
  const text = manifests.find(({ file }) => file.includes('configmap'))?.text ?? '';
  const { annotations } = deployment.spec.template.metadata;
  t.equal(annotations['checksum/config'], configChecksum(text), 'run: npm run k8s:checksum');
  t.not(configChecksum(text.replace('info', 'warn')), configChecksum(text));
  t.equal(configChecksum(`${text}# a comment\n`), configChecksum(text));
});

t.test('every variable has its effect when a ConfigMap says it', async (t) => {
  const told = ({ env = [], envFrom = [] }: Container, configMap: string) => {
    t.ok(
      envFrom.some(({ configMapRef }) => find('ConfigMap', configMapRef.name).metadata.name === configMap),
      configMap,
    );
    return env.map(({ name }) => name);
  };
  const ofApi = told(api, 'hardpoint-config');
  t.same(
    ofApi.filter((name) => VARIABLES.has(name)),
    [],
    'files of secrets aside, nothing wins over the ConfigMap',
  );
  const backups = objects
    .filter(({ kind }) => kind === 'CronJob')
    .flatMap(podsOf)
    .flatMap(containersOf);
  t.equal(backups.length, 2);
  const { data = {} } = find('ConfigMap', 'backup');
  for (const container of backups) {
    const fixed = told(container, 'hardpoint-backup-config');
    t.same(
      fixed.filter((name) => name in data),
      [],
    );
  }
  const scripts = ['backup.sh', 'restore-drill.sh'].map((name) => readText(`scripts/${name}`)).join('');
  const defaults = [...scripts.matchAll(/\b(BACKUP_KEEP_\w+):-(\w*)|\b(\w+_GOAL_SECONDS)=(\d+)/g)];
  for (const [, keep, kept, goal, seconds] of defaults) t.equal(data[keep ?? goal ?? ''], kept ?? seconds);
  t.equal(defaults.length, 5);
});

t.test('no file holds a secret, and every secret that a pod reads can be made', async (t) => {
  const example = optional['secret.example.yaml'] ?? [];
  for (const { data = {}, stringData } of example) {
    t.notOk(stringData);
    for (const value of Object.values(data)) t.match(value, /^<.+>$/, 'which is no base64, so it is refused');
  }
  const text = readFileSync(join(repositoryDir, 'k8s/optional/secret.example.yaml'), 'utf8').replaceAll(
    /\\\n#/g,
    '',
  );
  const made = [...text.matchAll(/create secret generic (\S+)(.*)/g)].map(([, name, files = '']) => ({
    name,
    keys: [...files.matchAll(/--from-file=([^=\s]+)/g)].map(([, key]) => key),
  }));
  t.same(
    made.map(({ name }) => name),
    example.map(({ metadata }) => metadata.name),
  );
  for (const { volumes, ...pod } of pods) {
    const { secretName } = volumes.find(({ secret }) => secret)?.secret ?? {};
    const { keys = [] } = made.find(({ name }) => name === secretName) ?? {};
    const env = containersOf({ volumes, ...pod }).flatMap((each) => each.env ?? []);
    const files = env.flatMap(({ value = '' }) =>
      value.startsWith('/run/secrets/') ? value.split('/').at(-1) : [],
    );
    const direct = env.flatMap(({ valueFrom }) => valueFrom?.secretKeyRef?.key ?? []);
    t.ok(files.length > 0);
    t.same(
      [...files, ...direct].filter((key) => !keys.includes(key)),
      [],
      secretName ?? '',
    );
  }
});

t.test(
  'the autoscaler owns the number of pods, and Postgres has a connection for each of them',
  async (t) => {
    t.notOk('replicas' in deployment.spec);
    const { minReplicas, maxReplicas, scaleTargetRef, metrics } = find('HorizontalPodAutoscaler').spec;
    t.same([minReplicas, maxReplicas, scaleTargetRef.name], [3, 10, deployment.metadata.name]);
    t.same(metrics[0].resource, { name: 'cpu', target: { type: 'Utilization', averageUtilization: 70 } });
    t.equal(config.rateLimit.expectedReplicas, maxReplicas);
    const budget = find('PodDisruptionBudget').spec;
    t.ok(budget.maxUnavailable >= 1 && budget.maxUnavailable < minReplicas, 'never blocks all evictions');

    const settings = readFileSync(join(repositoryDir, 'docker/postgres/postgresql.conf'), 'utf8');
    const maxConnections = Number(/^max_connections = (\d+)/m.exec(settings)?.[1]);
    const surge = deployment.spec.strategy.rollingUpdate.maxSurge;
    // The Job, a backup and its restore test.
    const others = 3;
    const wanted = (maxReplicas + surge) * (config.postgres.poolMax + CONNECTIONS_OF_CHECKS) + others;
    t.ok(wanted <= 0.8 * maxConnections, `${wanted} of ${maxConnections}`);
  },
);

t.test('nothing is reached that is not named: default deny, then exactly what is needed', async (t) => {
  const policies = objects.filter(({ kind }) => kind === 'NetworkPolicy').map(({ spec }) => spec);
  t.same(policies[0], { podSelector: {}, policyTypes: ['Ingress', 'Egress'] });
  const [, ofApi, ofJobs] = policies;
  t.same(portsOf(ofApi?.ingress), ['http', 'metrics']);
  t.same(portsOf(ofApi?.egress), [53, 53, 5432, 6379]);
  t.same([ofJobs?.ingress, portsOf(ofJobs?.egress)], [undefined, [53, 53, 5432]]);
  for (const { ingress = [], egress = [] } of policies)
    for (const rule of [...ingress, ...egress]) t.ok(rule.from ?? rule.to, 'from and to somebody');
  type Peer = { ipBlock?: { cidr: string } };
  const blocks = policies.flatMap(({ egress = [] }) =>
    egress.flatMap(({ to = [] }: { to?: Peer[] }) => to.flatMap(({ ipBlock }) => ipBlock?.cidr ?? [])),
  );
  t.same([...new Set(blocks)], ['10.0.0.0/8'], 'neither the internet nor the metadata of a cloud');
  const components: string[] = ofJobs?.podSelector.matchExpressions[0].values;
  const jobs = objects.filter(({ kind }) => kind === 'Job' || kind === 'CronJob');
  for (const { metadata } of jobs)
    t.ok(components.includes(metadata.labels['app.kubernetes.io/component'] ?? ''));
});

t.test('what is optional fits the rest', async (t) => {
  const all = Object.values(optional).flat();
  const namespace = find('Namespace').metadata.name;
  for (const { kind, metadata } of all) t.equal(metadata.namespace, namespace, `${kind} ${metadata.name}`);
  const route = find('HTTPRoute', '', all).spec;
  const ingress = find('Ingress').spec;
  t.same(route.hostnames, [ingress.rules[0].host]);
  const exact = { Exact: 'Exact', Prefix: 'PathPrefix' } as Record<string, string>;
  t.same(
    route.rules[0].matches.map(({ path }: { path: object }) => path),
    ingress.rules[0].http.paths.map(({ path, pathType }: Record<string, string>) => ({
      type: exact[pathType ?? ''],
      value: path,
    })),
  );
  const [port] = find('Service', 'api').spec.ports;
  t.same(route.rules[0].backendRefs, [{ name: find('Service', 'api').metadata.name, port: port.port }]);
  t.ok(Number.parseInt(route.rules[0].timeouts.request, 10) * 1000 > config.http.requestTimeoutMs);

  const monitor = find('ServiceMonitor', '', all).spec;
  t.match(find('Service', 'metrics').metadata.labels, monitor.selector.matchLabels);
  t.equal(monitor.endpoints[0].port, find('Service', 'metrics').spec.ports[0].name);
  // An alert that asks for a job by its name would fire for ever under another.
  const jobs = readRules().alerts.flatMap(({ expr }) =>
    [...expr.matchAll(/\bjob="(\w+)"/g)].map(([, job]) => job),
  );
  t.same([...new Set(jobs)], [monitor.endpoints[0].relabelings[0].replacement]);

  // The superuser's password stands in no environment: Postgres is made as compose.yaml makes it, of the same files.
  const [postgres] = podsOf(find('StatefulSet', 'postgres', all));
  const compose = readCompose().services.postgres;
  t.same(postgres?.containers[0]?.command, compose?.entrypoint);
  t.notOk(postgres?.containers[0]?.env);
  const given = postgres?.volumes.flatMap(({ configMap }) => configMap?.items ?? []) ?? [];
  for (const { key, path } of given) {
    t.ok(existsSync(join(repositoryDir, 'docker/postgres', path)), path);
    t.equal(basename(path), key);
  }
  const init = readdirSync(join(repositoryDir, 'docker/postgres/init')).map((name) => `init/${name}`);
  t.same(
    given.map(({ path }) => path).filter((path) => path !== 'primary.sh'),
    ['postgresql.conf', 'pg_hba.conf', ...init],
  );

  const text = readFileSync(join(repositoryDir, 'k8s/optional/prometheusrule.yaml'), 'utf8');
  t.equal(text, withRules(text), 'run: npm run k8s:rules');
  const told = all
    .filter(({ kind }) => kind === 'PrometheusRule')
    .flatMap(({ spec }) => spec.groups as { rules: object[] }[])
    .flatMap(({ rules }) => rules.map((rule) => JSON.stringify(rule)));
  const { alerts, recordings } = readRules();
  t.same(
    [...alerts, ...recordings].filter((rule) => !told.includes(JSON.stringify(rule))),
    [],
    'and says the same, read as YAML',
  );
});
