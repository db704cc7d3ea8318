import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse, stringify } from 'yaml';

/** How many times faster than in production the drill runs: a scrape every half second, `for: 5m` in ten. */
const FASTER = 30;

/** The rules are about this one only. */
const labels = { namespace: 'hardpoint' };

export interface DrillAddresses {
  /** host:port of each. */
  metrics: string;
  prometheus: string;
  alertmanager: string;
  /** Where Alertmanager sends what it would tell people. */
  webhookUrl: string;
}

interface PrometheusConfig {
  global: { scrape_interval: string; evaluation_interval: string };
  alerting: unknown;
  scrape_configs: unknown[];
}

interface Rule {
  expr: string;
  for?: string;
  keep_firing_for?: string;
}

interface RuleFile {
  groups: { rules: Rule[] }[];
}

interface Route {
  group_wait?: string;
  group_interval?: string;
  routes?: Route[];
}

interface AlertmanagerConfig {
  templates: string[];
  route: Route;
  receivers: { name: string }[];
}

/**
 * Writes the project's Prometheus and Alertmanager configuration to `to`, as it is but for this: every time in
 * it is shorter, the targets are those of the drill, and every receiver is the webhook, by its name.
 */
export function writeDrillConfig(from: string, to: string, addresses: DrillAddresses): void {
  const rewrite = <T>(name: string, change: (config: T) => T): void => {
    const config = parse(readFileSync(join(from, name), 'utf8')) as T;
    writeFileSync(join(to, name), stringify(change(config)));
  };

  rewrite<PrometheusConfig>('prometheus.yml', (config) => ({
    ...config,
    global: {
      ...config.global,
      scrape_interval: faster(config.global.scrape_interval),
      evaluation_interval: faster(config.global.evaluation_interval),
    },
    alerting: { alertmanagers: [staticTarget(addresses.alertmanager)] },
    scrape_configs: [
      { job_name: 'api', ...staticTarget(addresses.metrics, labels) },
      { job_name: 'prometheus', ...staticTarget(addresses.prometheus, labels) },
    ],
  }));

  mkdirSync(join(to, 'rules'));
  for (const name of readdirSync(join(from, 'rules'))) {
    rewrite<RuleFile>(join('rules', name), ({ groups }) => ({
      groups: groups.map((group) => ({ ...group, rules: group.rules.map(fasterRule) })),
    }));
  }

  rewrite<AlertmanagerConfig>('alertmanager.yml', (config) => ({
    ...config,
    templates: config.templates.map((name) => join(from, name)),
    route: fasterRoute(config.route),
    receivers: config.receivers.map(({ name }) => ({
      name,
      webhook_configs: [{ url: `${addresses.webhookUrl}/${name}`, send_resolved: true }],
    })),
  }));
}

function staticTarget(address: string, ofTarget: Record<string, string> = {}) {
  return { static_configs: [{ targets: [address], labels: ofTarget }] };
}

function fasterRule(rule: Rule): Rule {
  const expr = rule.expr
    .replaceAll(/\[(\w+)\]/g, (_, range: string) => `[${faster(range)}]`)
    .replaceAll(/\boffset (\w+)/g, (_, range: string) => `offset ${faster(range)}`);
  return { ...fasterTimes(rule, ['for', 'keep_firing_for']), expr };
}

function fasterRoute(route: Route): Route {
  const { routes, ...own } = fasterTimes(route, ['group_wait', 'group_interval']);
  return { ...own, ...(routes && { routes: routes.map(fasterRoute) }) };
}

/** A copy in which the times of these names, where they are given, are shorter. */
function fasterTimes<T extends object>(from: T, names: string[]): T {
  const times = Object.entries(from).filter(([name]) => names.includes(name));
  return { ...from, ...Object.fromEntries(times.map(([name, time]) => [name, faster(String(time))])) };
}

/** `1h30m` as the thirtieth part of it, in milliseconds; Prometheus and Alertmanager know them. */
function faster(duration: string): string {
  const units: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
  const parts = [...duration.matchAll(/(\d+)(ms|[smhd])/g)];
  const sum = parts.reduce((total, [, count, unit = '']) => total + Number(count) * (units[unit] ?? NaN), 0);
  return `${Math.round(sum / FASTER)}ms`;
}
