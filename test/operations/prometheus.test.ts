import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { stringify } from 'yaml';
import { runProgram } from '../../tools/dev/processes.ts';
import { VARIABLES } from '../../src/config/variables.ts';
import {
  filesOf,
  parseSeries,
  prometheusDir,
  readRuleTests,
  readRules,
  readYaml,
  secondsOf,
  selectorsOf,
  selects,
} from '../support/alert-rules.ts';
import { startAlertmanager } from '../support/alertmanager.ts';
import { EXPORTER_SERIES } from '../support/exporter-metrics.ts';
import { readCompose, readText } from '../support/compose.ts';
import { createDatabase, withClient } from '../support/postgres.ts';
import { pathWith, runScript } from '../support/scripts.ts';
import { repositoryDir } from '../support/servers.ts';
import { startService } from '../support/service.ts';
import { requireTool } from '../support/tools.ts';
import { until } from '../support/until.ts';

const RECEIVERS: Record<string, string> = { critical: 'pager', warning: 'chat', info: 'nobody' };
/** Fires whatever happens. */
const ALWAYS = ['Watchdog'];
/** Nothing is known of any replica: that is the fault. */
const ABSENCE = ['ApiDown'];

const { alerts, recordings } = readRules();
const prometheus = readYaml('prometheus.yml') as {
  global: { scrape_interval: string };
  scrape_configs: {
    job_name: string;
    dns_sd_configs?: { names: string[]; type: string; port: number }[];
    relabel_configs?: { target_label: string; replacement?: string }[];
  }[];
};
const names = [...new Set(alerts.map(({ alert }) => alert))].toSorted();
const runbooks = join(repositoryDir, 'docs/runbooks');

t.test('every alert says how urgent it is, what happened and where it is explained', async (t) => {
  const wrong = alerts.filter(
    ({ alert, labels, annotations, ...rule }) =>
      !Object.hasOwn(RECEIVERS, labels.severity ?? '') ||
      !annotations.summary ||
      !annotations.description ||
      annotations.runbook_url !== `docs/runbooks/${alert}.md` ||
      !/^[A-Z][A-Za-z0-9]+$/.test(alert) ||
      rule.for === undefined,
  );
  t.same(wrong, []);
  t.ok(names.length > 30, 'the rules were really read');
});

t.test('every alert has a runbook of a page, and every runbook an alert', async (t) => {
  t.same(
    readdirSync(runbooks).toSorted(),
    names.map((name) => `${name}.md`),
  );
  const headings = [
    'What it means',
    'How users feel it',
    'First look',
    'How to mend',
    'How to know it is over',
  ];
  for (const name of names) {
    const text = existsSync(join(runbooks, `${name}.md`)) ? readRunbook(name) : '';
    t.same(
      [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading]) => heading),
      [name, ...headings],
      name,
    );
    t.ok(text.split('\n').length <= 60, `${name} fits on a page`);
  }
});

t.test('Every alert was seen to fire in a test and links to a runbook that exists.', async (t) => {
  const groups = readRuleTests();
  const casesOf = (name: string) =>
    groups.flatMap((group) => group.alert_rule_test.filter(({ alertname }) => alertname === name));

  for (const { alert, labels, ...rule } of alerts) {
    const isThis = (expected: { exp_labels?: Record<string, string> }) =>
      Object.entries(labels).every(([name, value]) => expected.exp_labels?.[name] === value);
    const isTimed = groups.some(({ alert_rule_test: cases }) => {
      const times = (firing: boolean) =>
        cases
          .filter((one) => one.alertname === alert && (one.exp_alerts ?? []).some(isThis) === firing)
          .map((one) => secondsOf(one.eval_time));
      const from = Math.min(...times(true));
      const before = Math.max(...times(false).filter((time) => time < from));
      // Late enough to notice one that fires too early; a unit test looks once a minute.
      const wait = secondsOf(rule.for ?? '');
      return from < Infinity && (wait === 0 || before >= (wait - 60) / 2);
    });
    t.ok(isTimed, `${alert} (${labels.severity}) fires after ${rule.for}, not before`);
  }
  for (const name of names) t.ok(casesOf(name).length >= 3, `${name} has three cases`);

  const silent = (group: string) =>
    groups
      .filter((one) => one.name === group)
      .flatMap((one) => one.alert_rule_test)
      .filter(({ exp_alerts }) => exp_alerts === undefined)
      .map(({ alertname }) => alertname)
      .toSorted();
  t.same(silent('zero traffic'), without(names, ALWAYS));
  t.same(silent('no data'), without(names, [...ALWAYS, ...ABSENCE]));
});

t.test('rules and runbooks read nothing that nobody exports', async (t) => {
  const service = await startService(t, { DATABASE_URL: await createDatabase(t) });
  const exposition = await (await fetch(`${service.metricsUrl}/metrics`)).text();
  const recorded = recordings.map(({ record }) => record);
  const up = prometheus.scrape_configs.map(({ job_name: job }) => ({
    metric: 'up',
    labels: { job, namespace: 'hardpoint' },
  }));
  const series = [...parseSeries(exposition), ...parseSeries(EXPORTER_SERIES), ...up];
  const unknownIn = (expr: string) =>
    selectorsOf(expr)
      .filter(({ metric }) => !recorded.includes(metric))
      .filter((selector) => !series.some((one) => selects(selector, one)))
      .map(({ metric, matchers }) => metric + JSON.stringify(matchers));

  t.same(
    [...alerts, ...recordings].flatMap(({ expr }) => unknownIn(expr)),
    [],
  );
  t.same(
    names.flatMap((name) => queriesOf(name).flatMap(unknownIn)),
    [],
  );
  t.same(unknownIn('rate(api_request_latency_seconds_bucket{le="4"}[5m]) / nothing').length, 2);
});

t.test('every rule is about the namespace and the targets of this service alone', async (t) => {
  const wrong = [...alerts, ...recordings].filter(
    ({ expr }) =>
      /\b(?:by|on) \((?!namespace\b)/.test(expr) ||
      selectorsOf(expr).some(
        ({ matchers }) =>
          !matchers.some(({ label, value }) => label === 'namespace' && value === 'hardpoint'),
      ),
  );
  t.same(wrong, []);
  const unlabelled = prometheus.scrape_configs.filter(
    ({ relabel_configs: [first] = [] }) =>
      first?.target_label !== 'namespace' || first.replacement !== 'hardpoint',
  );
  t.same(unlabelled, [], 'the Prometheus of compose.yaml says so of each of its targets');
});

t.test('runbooks name fields, scripts, commands and services that exist', async (t) => {
  const { scripts } = JSON.parse(readFileSync(join(repositoryDir, 'package.json'), 'utf8'));
  const { services } = readCompose();
  const fields: Record<string, Set<string>> = { nginx: nginxFields(), api: serviceFields() };
  const wrong: string[] = [];
  for (const name of names) {
    const text = readRunbook(name);
    const expectIn = (pattern: RegExp, exists: (...found: string[]) => boolean) => {
      for (const [whole, ...found] of text.matchAll(pattern))
        if (!exists(...found)) wrong.push(`${name}: ${whole}`);
    };
    expectIn(/npm run ([\w:-]+)/g, (script = '') => script in scripts);
    expectIn(/(scripts\/\w[\w-]*\.sh)(?: ([a-z-]+))?/g, (file = '', word = '') => {
      const path = join(repositoryDir, file);
      return existsSync(path) && readFileSync(path, 'utf8').includes(word);
    });
    expectIn(/docker compose (?:logs|exec) (?:-\S+ )*([a-z][\w-]*)/g, (service = '') => service in services);
    for (const { service, program } of logQueriesOf(name)) {
      const known = fields[service];
      // Text in quotes is no field.
      for (const [, field = ''] of program.replaceAll(/"[^"]*"/g, '').matchAll(/(?<![\w)])\.(\w+)/g))
        if (!known?.has(field)) wrong.push(`${name}: the log of ${service} has no ${field}`);
    }
  }
  t.same(wrong, []);
  t.ok(fields.nginx?.has('client') && fields.api?.has('duration_ms'), 'the fields were really read');
  t.ok(names.flatMap(logQueriesOf).length > 10, 'the queries were really read');
});

t.test('the log queries of runbooks run, and those of nginx tell the client', async (t) => {
  if (!requireTool(t, 'jq') || !requireTool(t, 'bash')) return;
  const line = Object.fromEntries([...nginxFields(), ...serviceFields()].map((field) => [field, 'text']));
  const log = JSON.stringify({ ...line, status: 401, client: '203.0.113.9', message: 'request failed' });
  const PATH = pathWith(t, { docker: `echo 'no JSON'; echo '${log}'` });
  for (const { name, service, command } of names.flatMap(logQueriesOf)) {
    const { code, stdout, stderr } = await runScript(t, 'bash', ['-euo', 'pipefail', '-c', command], {
      PATH,
    });
    t.match({ code, stderr }, { code: 0, stderr: '' }, `${name}: ${command}`);
    if (service === 'nginx') t.match(stdout, '203.0.113.9', name);
  }
});

t.test('the SQL of runbooks runs', async (t) => {
  const databaseUrl = await createDatabase(t);
  const statements = names.flatMap((name) =>
    [...readRunbook(name).matchAll(/psql [^\n]*-c "([^"]+)"/g)].map(([, sql = '']) => ({ name, sql })),
  );
  for (const { name, sql } of statements) {
    // Loaded at the start of the stack's server alone.
    if (sql.includes('pg_stat_statements')) continue;
    await t.resolves(
      withClient(databaseUrl, (client) => client.query(sql)),
      name,
    );
  }
  t.ok(statements.length > 5, 'the statements were really read');
});

t.test('nothing is recorded that nobody reads', async (t) => {
  const readers = [...alerts, ...recordings].map(({ expr }) => expr);
  const read = [...readers, ...names.flatMap(queriesOf)].flatMap(selectorsOf).map(({ metric }) => metric);
  t.same(
    without(
      recordings.map(({ record }) => record),
      read,
    ),
    [],
  );
});

t.test('Prometheus finds the replicas by itself, on the port that they have', async (t) => {
  t.equal(prometheus.global.scrape_interval, '15s');
  const api = prometheus.scrape_configs.find(({ job_name }) => job_name === 'api');
  t.match(api?.dns_sd_configs, [
    { names: ['api'], type: 'A', port: Number(VARIABLES.get('METRICS_PORT')?.default) },
  ]);
});

t.test('promtool accepts the configuration, the rules and the queries of the runbooks', async (t) => {
  const promtool = requireTool(t, 'promtool');
  if (promtool === undefined) return;
  await runProgram(promtool, ['check', 'config', 'prometheus.yml'], { cwd: prometheusDir });
  await runProgram(promtool, ['check', 'rules', '--lint=all', '--lint-fatal', ...filesOf('rules')], {
    cwd: prometheusDir,
  });
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-test-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const queries = names.flatMap(queriesOf);
  const rules = queries.map((expr, index) => ({ record: `query_${index}`, expr }));
  writeFileSync(join(folder, 'queries.yml'), stringify({ groups: [{ name: 'runbooks', rules }] }));
  await runProgram(promtool, ['check', 'rules', 'queries.yml'], { cwd: folder });
  t.ok(queries.length > 20, 'the queries were really read');
});

t.test('promtool test rules', async (t) => {
  const promtool = requireTool(t, 'promtool');
  if (promtool === undefined) return;
  await t.resolves(runProgram(promtool, ['test', 'rules', ...filesOf('tests')], { cwd: prometheusDir }));
});

t.test('Alertmanager names no secret, and only alerts that exist', async (t) => {
  const config = readYaml('alertmanager.yml') as {
    inhibit_rules: { source_matchers: string[]; target_matchers: string[] }[];
  };
  const text = readFileSync(join(prometheusDir, 'alertmanager.yml'), 'utf8');
  const settings = [...text.matchAll(/^[\s-]*(\w+):/gm)].map(([, name = '']) => name);
  t.same(
    settings.filter((name) => /(url|key|token|secret|password)$/.test(name)),
    [],
  );
  t.same(
    [...new Set(settings.filter((name) => name.endsWith('_file')))],
    ['routing_key_file', 'api_url_file'],
  );

  const matchers = config.inhibit_rules.flatMap((rule) => [...rule.source_matchers, ...rule.target_matchers]);
  const mentioned = matchers.flatMap(
    (matcher) => /^alertname!?=~?"(.*)"$/.exec(matcher)?.[1]?.split('|') ?? [],
  );
  t.same(
    mentioned.filter((pattern) => !names.some((name) => new RegExp(`^${pattern}$`).test(name))),
    [],
  );
  t.ok(mentioned.length > 10);
});

t.test('amtool accepts the configuration and its routes', async (t) => {
  const amtool = requireTool(t, 'amtool');
  if (amtool === undefined) return;
  const run = (...args: string[]) =>
    t.resolves(runProgram(amtool, args, { cwd: prometheusDir }), args.join(' '));
  await run('check-config', 'alertmanager.yml');
  const route = ['config', 'routes', 'test', '--config.file=alertmanager.yml'];
  for (const [severity, receiver] of Object.entries(RECEIVERS)) {
    await run(...route, `--verify.receivers=${receiver}`, `severity=${severity}`, 'alertname=Any');
  }
  await run(...route, '--verify.receivers=heartbeat', 'severity=info', 'alertname=Watchdog');
  const both = '{{ template "notification.title" . }} {{ template "notification.text" . }}';
  await run('template', 'render', '--template.glob=*.tmpl', `--template.text=${both}`);
});

t.test('Alertmanager: every alert reaches who is meant to get it', async (t) => {
  const alertmanager = await startAlertmanager(t);
  if (!alertmanager) return;
  await alertmanager.post(alerts.map(({ alert, labels }) => ({ ...labels, alertname: alert })));
  const reached = (await alertmanager.list()).map(({ labels, receivers }) =>
    [labels.alertname, labels.severity, ...receivers.map(({ name }) => name)].join(' '),
  );
  const meant = alerts.map(({ alert, labels: { severity = '' } }) =>
    [alert, severity, ALWAYS.includes(alert) ? 'heartbeat' : RECEIVERS[severity]].join(' '),
  );
  t.same(reached.toSorted(), meant.toSorted());
});

t.test('a cause silences what follows from it, and nothing else', async (t) => {
  const alertmanager = await startAlertmanager(t);
  if (!alertmanager) return;
  const alert = (service: string, name: string, severity: string, labels = {}) => ({
    alertname: name,
    severity,
    service,
    job: 'api',
    ...labels,
  });
  const exporter = { job: 'postgres', instance: 'postgres-exporter:9187' };
  await alertmanager.post([
    alert('all-down', 'ApiDown', 'critical'),
    alert('all-down', 'HighLatencyP95', 'critical'),
    alert('all-down', 'TargetDown', 'warning', { instance: 'a:9090' }),
    alert('all-down', 'ProbeFailed', 'critical', { job: 'probe' }),
    alert('all-down', 'DiskFilling', 'warning', { job: 'node' }),
    alert('no-postgres', 'PostgresDown', 'critical', exporter),
    alert('no-postgres', 'HighErrorRate', 'critical'),
    alert('no-postgres', 'DatabaseConnectionErrors', 'warning'),
    alert('no-postgres', 'RevokedKeyUsed', 'warning'),
    alert('no-redis', 'RedisDown', 'critical', { job: 'redis' }),
    alert('no-redis', 'RateLimitFallback', 'warning', { instance: 'a:9090' }),
    alert('no-redis', 'HighErrorRate', 'critical'),
    alert('worse', 'HighErrorRate', 'critical'),
    alert('worse', 'HighErrorRate', 'warning'),
    alert('worse', 'HighErrorRate', 'warning', { job: 'other' }),
    alert('well', 'HighLatencyP95', 'warning'),
  ]);
  const silenced = async () => {
    const states = await alertmanager.list();
    return states
      .filter(({ status }) => status.state === 'suppressed')
      .map(({ labels }) => `${labels.service}: ${labels.alertname} ${labels.severity}`)
      .toSorted();
  };
  await until('all are looked at', async () =>
    (await alertmanager.list()).every(({ status }) => status.state !== 'unprocessed'),
  );
  t.same(await silenced(), [
    'all-down: HighLatencyP95 critical',
    'all-down: ProbeFailed critical',
    'all-down: TargetDown warning',
    'no-postgres: DatabaseConnectionErrors warning',
    'no-postgres: HighErrorRate critical',
    'no-redis: RateLimitFallback warning',
    'worse: HighErrorRate warning',
  ]);
});

function readRunbook(name: string): string {
  return readFileSync(join(runbooks, `${name}.md`), 'utf8');
}

/** The PromQL that a runbook says to look at. */
function queriesOf(name: string): string[] {
  return [...readRunbook(name).matchAll(/```promql\n([\s\S]*?)```/g)].flatMap(([, text = '']) =>
    text.split('\n').filter((line) => line.trim() !== '' && !line.startsWith('#')),
  );
}

/** The commands that ask a log, with the program of jq in them. */
function logQueriesOf(name: string) {
  const found = readRunbook(name).matchAll(/^docker compose logs ([\w-]+) [^|\n]*\| jq -\w+ '([^']+)'.*$/gm);
  return [...found].map(([command, service = '', program = '']) => ({ name, command, service, program }));
}

function nginxFields(): Set<string> {
  const [, format = ''] = /log_format json([^;]*);/.exec(readText('nginx/nginx.conf')) ?? [];
  return new Set([...format.matchAll(/"(\w+)":/g)].map(([, field = '']) => field));
}

/** What the service gives its log: the fields of every line, of requests, and of each call with fields of its own. */
function serviceFields(): Set<string> {
  const folder = join(repositoryDir, 'src');
  const sources = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((file) =>
    file.endsWith('.ts'),
  );
  const literals = sources.flatMap((file) => [
    ...readFileSync(join(folder, file), 'utf8').matchAll(
      /(?:\blog\??\.?(?:fatal|error|warn|info|debug)?\(|const line = |const fields = |return )\s*(\{[^{}]*\})/g,
    ),
  ]);
  const keys = literals.flatMap(([, literal = '']) =>
    [...literal.matchAll(/[{,]\s*(\w+)\s*(?=[:,}])/g)].map(([, key = '']) => key),
  );
  return new Set(['timestamp', 'level', 'logger', 'message', ...keys]);
}

function without(all: string[], some: string[]): string[] {
  return all.filter((one) => !some.includes(one));
}
