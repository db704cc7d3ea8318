import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { repositoryDir } from './servers.ts';

export const prometheusDir = join(repositoryDir, 'prometheus');

export interface AlertRule {
  alert: string;
  expr: string;
  for?: string;
  labels: Record<string, string>;
  annotations: Record<string, string>;
}

export interface RecordingRule {
  record: string;
  expr: string;
}

interface RuleFile {
  groups: { rules: (AlertRule | RecordingRule)[] }[];
}

/** One `eval_time` of a unit test: which alerts of that name fire then. */
interface AlertCase {
  eval_time: string;
  alertname: string;
  exp_alerts?: { exp_labels?: Record<string, string> }[];
}

export interface TestGroup {
  name: string;
  alert_rule_test: AlertCase[];
}

interface RuleTestFile {
  /** A group of queries only has no alerts. */
  tests: (Omit<TestGroup, 'alert_rule_test'> & Partial<TestGroup>)[];
}

export function readYaml(name: string): unknown {
  return parse(readFileSync(join(prometheusDir, name), 'utf8'));
}

export function readRules(): { alerts: AlertRule[]; recordings: RecordingRule[] } {
  const files = filesOf('rules').map((name) => readYaml(name) as RuleFile);
  const rules = files.flatMap(({ groups }) => groups).flatMap((group) => group.rules);
  return {
    alerts: rules.filter((rule) => 'alert' in rule),
    recordings: rules.filter((rule) => 'record' in rule),
  };
}

export function readRuleTests(): TestGroup[] {
  const files = filesOf('tests').map((name) => readYaml(name) as RuleTestFile);
  return files.flatMap(({ tests }) => tests).map((group) => ({ alert_rule_test: [], ...group }));
}

export function filesOf(folder: string): string[] {
  return readdirSync(join(prometheusDir, folder)).map((name) => `${folder}/${name}`);
}

/** `25h50m` in seconds. */
export function secondsOf(duration: string): number {
  const units: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400 };
  const parts = [...duration.matchAll(/(\d+)([smhd])/g)];
  return parts.reduce((sum, [, count, unit = '']) => sum + Number(count) * (units[unit] ?? NaN), 0);
}

interface Selector {
  metric: string;
  matchers: { label: string; operator: string; value: string }[];
}

/** What an expression reads: `rate(x{a="b"}[5m]) > 1` reads the metric x where a is b. */
export function selectorsOf(expr: string): Selector[] {
  const bare = expr
    .replaceAll(/\[[^\]]*\]|\boffset\s+\w+/g, '')
    .replaceAll(/\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)/g, ' ');
  const found = bare.matchAll(/(?<![\w:.])([a-zA-Z_:][\w:]*)(?![\w:]*\s*\()(?:\{([^}]*)\})?/g);
  return [...found]
    .filter(([, name = '']) => !/^(and|or|unless|bool)$/.test(name))
    .map(([, metric = '', matchers = '']) => ({
      metric,
      matchers: [...matchers.matchAll(/(\w+)\s*(=~|!~|!=|=)\s*"((?:\\.|[^"])*)"/g)].map(
        ([, label = '', operator = '', value = '']) => ({
          label,
          operator,
          value: value.replaceAll('\\\\', '\\'),
        }),
      ),
    }));
}

/** One line of an exposition: `up{job="api"} 1`. */
export interface Series {
  metric: string;
  labels: Record<string, string>;
}

/** With the label that Prometheus adds to all that it scrapes for the service. */
export function parseSeries(exposition: string): Series[] {
  const lines = exposition.split('\n').filter((line) => line.trim() !== '' && !line.startsWith('#'));
  return lines.map((line) => {
    const [, metric = '', labels = ''] = /^\s*([\w:]+)(?:\{(.*)\})?/.exec(line) ?? [];
    const pairs = [...labels.matchAll(/(\w+)="((?:\\.|[^"])*)"/g)];
    const own = Object.fromEntries(pairs.map(([, name = '', value = '']) => [name, value]));
    return { metric, labels: { namespace: 'hardpoint', ...own } };
  });
}

/** As Prometheus selects: a label that is missing is empty, and a pattern fits the whole value. */
export function selects({ metric, matchers }: Selector, series: Series): boolean {
  if (metric !== series.metric) return false;
  return matchers.every(({ label, operator, value }) => {
    const actual = series.labels[label] ?? '';
    const fits = operator.includes('~') ? new RegExp(`^(?:${value})$`).test(actual) : actual === value;
    return operator.startsWith('!') ? !fits : fits;
  });
}
