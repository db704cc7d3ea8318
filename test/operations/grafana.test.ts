import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { parse, stringify } from 'yaml';
// example:start
import { newOrder } from '../support/app.ts';
// example:end
import { filesOf, parseSeries, readRules, readYaml, selectorsOf, selects } from '../support/alert-rules.ts';
import { startTestApp } from '../support/app.ts';
import {
  interpolate,
  queriesOf,
  readDashboards,
  readProvisioning,
  type Panel,
} from '../support/dashboards.ts';
import { EXPORTER_SERIES } from '../support/exporter-metrics.ts';
import { createDatabase } from '../support/postgres.ts';
import { startProgram } from '../support/programs.ts';
import { startPrometheus } from '../support/prometheus.ts';
import { redisUrl } from '../support/redis.ts';
import { repositoryDir } from '../support/servers.ts';
import { startService } from '../support/service.ts';
import { findTool, requireTool } from '../support/tools.ts';
import { until } from '../support/until.ts';

/** Of Grafana's units those in use; a unit that it does not know is shown as a word behind the number. */
const UNITS = ['short', 'percentunit', 's', 'bytes', 'reqps', 'ops', 'cps', 'cpm', 'bool_yes_no'];
/** Rules about what the dashboards show. The others are about what stands around the service. */
const SHOWN = ['rules/api.yml', 'rules/slo.yml', 'rules/dependencies.yml'];
const ALERT_LINK = /^\/alerting\/\$\{datasource:text\}\/(\w+)\/find$/;
/** In place of $__rate_interval; a few scrapes of the test's Prometheus. */
const RATE_INTERVAL = '5s';
/** Queries that have no data until a feature caches what it reads. */
const idle = new Set(['Hardpoint API, Cache hit ratio A', 'Hardpoint dependencies, P95 of the upstreams A']);
// example:start
idle.clear();
// example:end
const DATASOURCE = { type: 'prometheus', uid: '${datasource}' };

interface RuleFile {
  groups: { name: string; rules: { alert?: string; for?: string }[] }[];
}

const dashboards = readDashboards();
const { alerts, recordings } = readRules();
const recorded = recordings.map(({ record }) => record);
const queries = dashboards.flatMap(queriesOf);
const graphs = dashboards.flatMap(({ panels }) => panels.filter(({ type }) => type !== 'row'));
const { datasources, providers } = readProvisioning();
const compose = parse(readFileSync(join(repositoryDir, 'compose.yaml'), 'utf8')) as {
  services: Record<string, { volumes?: unknown[] }>;
};

t.test('Grafana finds the dashboards in files, and cannot change them', async (t) => {
  const path = '/etc/grafana/dashboards';
  t.match(providers, [{ type: 'file', allowUiUpdates: false, options: { path } }]);
  t.ok(compose.services.grafana?.volumes?.includes(`./grafana/dashboards:${path}:ro`));
  t.ok(dashboards.length > 0 && dashboards.length <= 2);
  for (const { uid, title, description, tags, links } of dashboards) {
    // Grafana takes no uid of more than 40 characters.
    t.match(uid, /^[a-z-]{1,40}$/);
    t.ok(title && description);
    t.match(links, [{ type: 'dashboards', tags }]);
  }
  t.equal(new Set(dashboards.map(({ uid }) => uid)).size, dashboards.length);
});

t.test('the data sources are those of the stack, asked as often as they have something new', async (t) => {
  const config = readYaml('prometheus.yml') as {
    global: { scrape_interval: string };
    alerting: { alertmanagers: { dns_sd_configs: { names: string[]; port: number }[] }[] };
  };
  const [prometheus, alertmanager] = datasources;
  t.match(prometheus, { type: 'prometheus', jsonData: { timeInterval: config.global.scrape_interval } });
  t.equal(prometheus?.jsonData.alertmanagerUid, alertmanager?.uid);
  const known = config.alerting.alertmanagers[0]?.dns_sd_configs[0];
  t.match(alertmanager, { type: 'alertmanager', url: `http://${known?.names[0]}:${known?.port}` });
  for (const { url } of datasources) t.ok(Object.hasOwn(compose.services, new URL(url).hostname), url);
});

t.test(
  'data source, namespace, job and instance can be chosen, at first all of the own namespace',
  async (t) => {
    for (const { templating, annotations, panels } of dashboards) {
      const [source, namespace, ...chosen] = templating.list;
      const { name: text, uid: value } = datasources[0] ?? {};
      t.match(source, {
        name: 'datasource',
        type: 'datasource',
        query: 'prometheus',
        current: { text, value },
      });
      t.same(
        chosen.map(({ name }) => name),
        ['job', 'instance'],
      );
      t.match(namespace, { name: 'namespace', type: 'query', current: { value: 'hardpoint' } });
      for (const variable of chosen) {
        t.match(variable, { type: 'query', multi: true, includeAll: true, allValue: '.+' });
        t.same(variable.current.value, ['$__all']);
      }
      const asked = [
        ...(namespace ? [namespace] : []),
        ...chosen,
        ...annotations.list,
        ...panels.filter(({ type }) => type !== 'row'),
      ];
      t.same(
        asked.filter(({ datasource }) => JSON.stringify(datasource) !== JSON.stringify(DATASOURCE)),
        [],
      );
    }
  },
);

t.test('every panel says what it shows, in which unit, and has a place of its own', async (t) => {
  t.same(
    graphs.filter(({ description }) => !/^[A-Z0-9`].*\.$/.test(description ?? '')).map(({ title }) => title),
    [],
  );
  t.same(
    graphs.filter(({ fieldConfig }) => !UNITS.includes(fieldConfig?.defaults.unit ?? '')),
    [],
  );
  t.same(
    graphs.filter(({ targets = [] }) => targets.length === 0),
    [],
  );
  for (const { panels } of dashboards) {
    const cells = panels.flatMap(cellsOf);
    t.equal(new Set(cells).size, cells.length, 'no panel covers another');
    t.ok(panels.every(({ gridPos: { x, w } }) => x + w <= 24));
    t.equal(new Set(panels.map(({ id }) => id)).size, panels.length);
    t.equal(new Set(panels.map(({ title }) => title)).size, panels.length);
    t.ok(panels.every(({ id }) => id > 0));
  }
});

t.test('every query keeps to what was chosen, and to the step of the graph', async (t) => {
  const ranges = queries.flatMap(({ expr }) => [...expr.matchAll(/\[(.*?)\]/g)].map(([, range]) => range));
  t.same([...new Set(ranges)], ['$__rate_interval']);
  t.ok(ranges.length > 30, 'the ranges were really read');

  const unfiltered = queries.flatMap(({ where, expr }) =>
    selectorsIn(expr)
      .filter(({ metric, matchers }) => {
        const has = (label: string) =>
          matchers.some(({ label: name, value }) => name === label && value === `$${label}`);
        // What is recorded is of all instances, and so are most alerts.
        return (
          !has('namespace') ||
          !has('job') ||
          !(has('instance') || recorded.includes(metric) || metric === 'ALERTS')
        );
      })
      .map(({ metric }) => `${where}: ${metric}`),
  );
  t.same(unfiltered, []);

  const counters = queries.filter(({ expr }) => /_(?:total|bucket|sum)\{[^}]*\}(?!\[)/.test(expr));
  t.same(counters, [], 'no counter is shown as it is');
});

t.test('the dashboards read nothing that nobody exports', async (t) => {
  const { internal } = await startTestApp(t);
  const exposition = (await internal.inject('/metrics')).body;
  const series = [...parseSeries(exposition), ...parseSeries(EXPORTER_SERIES)];
  const isChosen = ({ value }: { value: string }) => !value.startsWith('$');
  const unknownIn = (expr: string) =>
    selectorsIn(expr)
      .filter(({ metric }) => !recorded.includes(metric))
      .map(({ metric, matchers }) => ({ metric, matchers: matchers.filter(isChosen) }))
      .flatMap(alternativesOf)
      .filter((selector) => !series.some((one) => selects(selector, one)))
      .map(({ metric }) => metric);

  t.same(
    queries.filter(({ expr }) => unknownIn(expr).length > 0),
    [],
  );
  t.same(unknownIn("rate(cache_requests_total{result=~'hit|lost'}[5m]) / nothing"), [
    'cache_requests_total',
    'nothing',
  ]);
});

t.test('every alert has its panel, and the panel its line where the alert fires', async (t) => {
  const files = SHOWN.map((name) => readYaml(name) as RuleFile);
  const known = files
    .flatMap(({ groups }) => groups)
    .flatMap(({ rules }) => rules)
    .flatMap(({ alert }) => alert ?? []);
  const linked = graphs.flatMap(alertsOf);
  const links = graphs.flatMap((panel) => panel.links ?? []).filter(({ url }) => url !== '/alerting/list');
  t.same(
    links.filter(({ title, url }) => title !== `Alert ${ALERT_LINK.exec(url)?.[1]}`),
    [],
  );
  t.same(
    known.filter((name) => !linked.includes(name)),
    [],
  );
  t.same(
    linked.filter((name) => !alerts.some(({ alert }) => alert === name)),
    [],
  );
  t.ok(linked.length > 25, 'the links were really read');

  for (const panel of graphs) {
    const steps = panel.fieldConfig?.defaults.thresholds?.steps ?? [];
    const conditions = alerts.filter(({ alert }) => alertsOf(panel).includes(alert)).map(({ expr }) => expr);
    // `within_3s_ratio < 0.95` is a P95 above 3 s.
    const numbers = conditions.flatMap((expr) => (expr.match(/\d+(?:\.\d+)?/g) ?? []).map(Number));
    // The 1 of a stat parts some from none.
    const lines = steps
      .flatMap(({ value }) => value ?? [])
      .filter((value) => value !== 1 || panel.type !== 'stat');
    t.same(
      lines.filter((value) => !numbers.includes(value)),
      [],
      panel.title,
    );
  }
});

t.test('every panel shows data of a service under load', async (t) => {
  const prometheusFile = requireTool(t, 'prometheus');
  const postgresExporter = findTool('postgres_exporter') ?? requireTool(t, 'prometheus-postgres-exporter');
  const redisExporter = findTool('redis_exporter') ?? requireTool(t, 'prometheus-redis-exporter');
  const redis = await redisUrl(t);
  if (!prometheusFile || !postgresExporter || !redisExporter || !redis) return;

  const databaseUrl = await createDatabase(t);
  const [load, service, postgres, ofRedis] = await Promise.all([
    prepareLoad(t, databaseUrl),
    startService(t, { DATABASE_URL: databaseUrl, REDIS_URL: redis, AUTH_FAILURES_PER_MINUTE: '1000000' }),
    startProgram(t, {
      file: postgresExporter,
      args: (address) => [`--web.listen-address=${address}`],
      env: { DATA_SOURCE_NAME: withoutTls(databaseUrl) },
      readyPath: '/',
    }),
    startProgram(t, {
      file: redisExporter,
      args: (address) => [`--web.listen-address=${address}`, `--redis.addr=${redis}`],
      readyPath: '/',
    }),
  ]);
  const prometheus = await startPrometheus(t, {
    file: prometheusFile,
    targets: {
      api: new URL(service.metricsUrl).host,
      postgres: new URL(postgres.url).host,
      redis: new URL(ofRedis.url).host,
    },
    rules: Object.fromEntries(filesOf('rules').map((name) => [name.replace('/', '-'), impatient(name)])),
  });

  const empty = new Set(queries.map(({ where }) => where).filter((where) => !idle.has(where)));
  const allFed = async () => {
    await load(service.url);
    // Prometheus looks once a second; each look of ours is many queries.
    await delay(300);
    for (const where of await findFed(prometheus, empty)) empty.delete(where);
    return empty.size === 0;
  };
  await t.resolves(until('every query has data', allFed, 60_000));
  t.same([...empty], []);
  for (const counter of ['auth_failures_total', 'rate_limit_hits_total', 'revoked_key_attempts_total']) {
    const [sum] = await prometheus.query(`sum(${counter})`);
    t.ok(Number(sum?.value[1]) > 0, counter);
  }
});

/** Those of the queries that have data, asked as Grafana asks with every job and instance chosen that it offers. */
async function findFed(
  prometheus: Awaited<ReturnType<typeof startPrometheus>>,
  among: Set<string>,
): Promise<string[]> {
  const fed: string[] = [];
  for (const dashboard of dashboards) {
    const chosen: Record<string, string[]> = {};
    for (const { name, query } of dashboard.templating.list.filter(({ type }) => type === 'query')) {
      const [, selector = '', label = ''] = /^label_values\((.*), (\w+)\)$/.exec(query) ?? [];
      chosen[name] = await prometheus.labelValues(label, interpolate(selector, chosen, RATE_INTERVAL));
    }
    for (const { where, expr } of queriesOf(dashboard).filter((query) => among.has(query.where))) {
      const samples = await prometheus.query(interpolate(expr, chosen, RATE_INTERVAL));
      // 0/0 is a sample too, and nothing that a graph could show.
      if (samples.some(({ value: [, value] }) => Number.isFinite(Number(value)))) fed.push(where);
    }
  }
  return fed;
}

/** One of each request that a panel is about; the first key of them is good. */
async function prepareLoad(t: Test, databaseUrl: string): Promise<(url: string) => Promise<void>> {
  const { issueKey, request } = await startTestApp(t, { DATABASE_URL: databaseUrl });
  const good = await issueKey();
  const keys = [
    good,
    await issueKey({ limitPerMinute: 1 }),
    await issueKey({ scopes: ['status:read'] }),
    await issueKey(),
    undefined,
  ];
  await request('DELETE', `/v1/api-keys/${keys[3]?.id}`, { token: good.token });
  const urls = keys.map((key) => ({ path: '/v1/audit-events', key }));
  urls.push({ path: '/v1/nowhere', key: good });
  // example:start
  const order = (await request('POST', '/v1/orders', { token: good.token, body: newOrder() })).json;
  urls.push({ path: `/v1/orders/${order.id}`, key: good });
  // example:end
  return async (url) => {
    const ask = async (path: string, headers: Record<string, string>) =>
      (await fetch(url + path, { headers })).arrayBuffer();
    await Promise.all(
      urls.map(({ path, key }) => ask(path, key ? { authorization: `Bearer ${key.token}` } : {})),
    );
  };
}

/** The rules of a file, with alerts that do not wait: some fire during the test. */
function impatient(name: string): string {
  const { groups } = readYaml(name) as RuleFile;
  for (const rule of groups.flatMap(({ rules }) => rules)) if (rule.for) rule.for = '0s';
  return stringify({ groups });
}

/** As the exporter, which wants TLS when nothing is said, has to be told about a server of the tests. */
function withoutTls(databaseUrl: string): string {
  const url = new URL(databaseUrl);
  if (!url.searchParams.has('sslmode')) url.searchParams.set('sslmode', 'disable');
  return url.href;
}

function selectorsIn(expr: string) {
  return selectorsOf(expr.replaceAll("'", '"'));
}

/** One selector for each word of a pattern such as `hit|stale`: a misspelt one hides behind the others. */
function alternativesOf(selector: ReturnType<typeof selectorsOf>[number]) {
  const { metric, matchers } = selector;
  const several = matchers.find(({ operator, value }) => operator === '=~' && value.includes('|'));
  if (!several) return [selector];
  const others = matchers.filter((matcher) => matcher !== several);
  return several.value.split('|').map((value) => ({ metric, matchers: [...others, { ...several, value }] }));
}

function alertsOf({ links = [] }: Panel): string[] {
  return links.flatMap(({ url }) => ALERT_LINK.exec(url)?.[1] ?? []);
}

/** The cells of the grid that a panel takes. */
function cellsOf({ gridPos: { x, y, w, h } }: Panel): string[] {
  const rows = Array.from({ length: h }, (_, row) => y + row);
  return rows.flatMap((row) => Array.from({ length: w }, (_, column) => `${x + column},${row}`));
}
