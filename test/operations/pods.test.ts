import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { shutdownBudgetMs } from '../../src/http/shutdown.ts';
import { startTestApp } from '../support/app.ts';
import {
  api,
  config,
  containersOf,
  deployment,
  find,
  objects,
  optional,
  pod,
  podsOf,
} from '../support/manifests.ts';
import { repositoryDir } from '../support/servers.ts';

const all = [...objects, ...Object.values(optional).flat()];
const pods = all.flatMap(podsOf);
const mebibytes = (amount = '') => Number.parseInt(amount, 10) * (amount.endsWith('Gi') ? 1024 : 1);
const cores = (amount = '') => (amount.endsWith('m') ? Number.parseInt(amount, 10) / 1000 : Number(amount));

t.test('every pod is restricted, and says what it needs', async (t) => {
  const levels = Object.entries(find('Namespace').metadata.labels).filter(([key]) =>
    key.includes('pod-security'),
  );
  t.same(
    levels.map(([key, level]) => `${key.split('/')[1]} ${level}`),
    ['enforce restricted', 'audit restricted', 'warn restricted'],
  );
  const account = find('ServiceAccount') as { automountServiceAccountToken?: boolean };
  t.equal(account.automountServiceAccountToken, false);
  t.equal(pods.length, 6);
  for (const each of pods) {
    t.match(each, { automountServiceAccountToken: false, enableServiceLinks: false });
    t.match(each.securityContext, { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } });
    const kinds = each.volumes.flatMap((volume) => Object.keys(volume).filter((key) => key !== 'name'));
    const allowed = ['secret', 'configMap', 'emptyDir', 'persistentVolumeClaim'];
    t.same(
      kinds.filter((kind) => !allowed.includes(kind)),
      [],
    );
    for (const { emptyDir } of each.volumes) if (emptyDir) t.ok(emptyDir.sizeLimit, 'bounded');
    t.same(
      Object.keys(each).filter((key) => key.startsWith('host')),
      [],
    );
  }
});

t.test('so is every container', async (t) => {
  for (const { name, securityContext, resources, volumeMounts, env = [], imagePullPolicy } of pods.flatMap(
    containersOf,
  )) {
    const { runAsUser, runAsGroup, ...rest } = securityContext;
    t.ok(runAsUser > 0 && runAsGroup > 0, `${name} is nobody, by number`);
    t.same(
      rest,
      { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'] } },
      name,
    );
    const { requests, limits } = resources;
    for (const amounts of [requests, limits])
      t.same(Object.keys(amounts).toSorted(), ['cpu', 'ephemeral-storage', 'memory'], name);
    t.ok(
      cores(requests.cpu) <= cores(limits.cpu) && mebibytes(requests.memory) <= mebibytes(limits.memory),
      name,
    );
    t.ok(imagePullPolicy, `${name} says when its image is pulled`);
    const secrets = volumeMounts.find((mount) => mount.mountPath.startsWith('/run/secrets'));
    t.ok(secrets?.readOnly, 'secrets are files');
    const bare = /SECRET|PASSWORD|DATABASE_URL|REDIS/;
    t.notOk(env.some((each) => bare.test(each.name) && !each.name.endsWith('_FILE')));
  }
});

t.test('jobs end, and never pile up', async (t) => {
  const jobs = objects.filter(({ kind }) => kind === 'Job').map(({ spec }) => spec);
  const cronJobs = objects.filter(({ kind }) => kind === 'CronJob').map(({ spec }) => spec);
  t.same([jobs.length, cronJobs.length], [1, 2]);
  for (const spec of [...jobs, ...cronJobs.map(({ jobTemplate }) => jobTemplate.spec)]) {
    t.ok(spec.activeDeadlineSeconds > 0 && spec.ttlSecondsAfterFinished > 0 && spec.backoffLimit >= 0);
    t.equal(spec.template.spec.restartPolicy, 'Never');
  }
  for (const spec of cronJobs) {
    t.match(spec, { concurrencyPolicy: 'Forbid', timeZone: 'Etc/UTC' });
    t.ok(
      spec.startingDeadlineSeconds > 0 &&
        spec.successfulJobsHistoryLimit > 0 &&
        spec.failedJobsHistoryLimit > 0,
    );
  }
  const waits = Number(pod.initContainers?.[0]?.args?.at(-1));
  t.ok(
    waits > 0 && waits <= deployment.spec.progressDeadlineSeconds,
    'a rollout is not given up while it waits',
  );
  t.same(pod.initContainers?.[0]?.args?.slice(0, 2), ['dist/cli/migrate.js', 'wait']);
  t.same(podsOf(find('Job'))[0]?.containers[0]?.args?.slice(0, 2), ['dist/cli/migrate.js', 'up']);
  for (const { command: [file] = [] } of objects
    .filter(({ kind }) => kind === 'CronJob')
    .flatMap(podsOf)
    .flatMap(containersOf) as { command?: string[] }[])
    t.match(
      readFileSync(join(repositoryDir, 'docker/backup.Dockerfile'), 'utf8'),
      `scripts/${file?.split('/').at(-1)}`,
    );
});

t.test('a rollout loses no request: probes, ports and times fit the service', async (t) => {
  const rollingUpdate = { maxUnavailable: 0, maxSurge: 1 };
  t.match(deployment.spec.strategy, { type: 'RollingUpdate', rollingUpdate });
  t.ok(deployment.spec.minReadySeconds > 0);
  const ports = Object.fromEntries((api.ports ?? []).map(({ name, containerPort }) => [name, containerPort]));
  t.same(ports, { http: config.http.port, metrics: config.http.metricsPort });
  t.same(
    [config.http.host, config.http.metricsHost],
    ['0.0.0.0', '0.0.0.0'],
    'reached from outside of the pod',
  );
  const targets = ['api', 'metrics'].map((name) => find('Service', name).spec.ports[0].targetPort);
  t.same(targets, Object.keys(ports));
  const preStopMs = (api.lifecycle?.preStop.sleep.seconds ?? 0) * 1000;
  t.ok(preStopMs > 0);
  const graceMs = (pod.terminationGracePeriodSeconds ?? 0) * 1000;
  t.ok(graceMs >= preStopMs + shutdownBudgetMs(config.lifecycle));
  const { periodSeconds = 0, failureThreshold = 0 } = api.readinessProbe ?? {};
  t.ok(preStopMs >= periodSeconds * failureThreshold * 1000, 'who is unready is left out before it stops');

  const { app } = await startTestApp(t);
  const probes = [api.startupProbe, api.livenessProbe, api.readinessProbe].map((probe) => probe?.httpGet);
  t.same(
    probes.map((probe) => `${probe?.port} ${probe?.path}`),
    ['http /health/live', 'http /health/live', 'http /health/serving'],
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

  const options = api.env?.find(({ name }) => name === 'NODE_OPTIONS')?.value ?? '';
  const ofImage = /^ENV NODE_OPTIONS=(.+)$/m.exec(
    readFileSync(join(repositoryDir, 'docker/Dockerfile'), 'utf8'),
  );
  t.ok(options.startsWith(`${ofImage?.[1]} `), 'what the image says of V8 is said again');
  const heapMb = Number(/--max-old-space-size=(\d+)/.exec(options)?.[1]);
  t.ok(heapMb <= 0.75 * mebibytes(api.resources.limits.memory), 'the heap fits the limit');
});
