import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { repositoryDir } from './servers.ts';

const grafanaDir = join(repositoryDir, 'grafana');

/** What the tests read of Grafana's dashboard model. */
export interface Dashboard {
  uid: string;
  title: string;
  description: string;
  tags: string[];
  links: { type: string; tags: string[] }[];
  templating: { list: Variable[] };
  annotations: { list: { name: string; datasource: object; target: Target }[] };
  panels: Panel[];
}

export interface Variable {
  name: string;
  type: string;
  query: string;
  datasource?: object;
  multi?: boolean;
  includeAll?: boolean;
  allValue?: string;
  current: { text: string | string[]; value: string | string[] };
}

export interface Panel {
  id: number;
  type: string;
  title: string;
  description?: string;
  gridPos: { x: number; y: number; w: number; h: number };
  datasource?: object;
  fieldConfig?: {
    defaults: { unit?: string; thresholds?: { steps: { color: string; value: number | null }[] } };
  };
  targets?: Target[];
  links?: { title: string; url: string }[];
}

interface Target {
  refId: string;
  expr: string;
}

/** One expression of a dashboard, and where it stands. */
export interface DashboardQuery {
  where: string;
  expr: string;
}

export function readDashboards(): Dashboard[] {
  const folder = join(grafanaDir, 'dashboards');
  return readdirSync(folder).map((name) => JSON.parse(readFileSync(join(folder, name), 'utf8')));
}

export interface DataSource {
  uid: string;
  name: string;
  type: string;
  url: string;
  jsonData: Record<string, unknown>;
}

/** What Grafana is told to load: its data sources, and where the dashboards are. */
export function readProvisioning(): { datasources: DataSource[]; providers: object[] } {
  const read = (name: string) => parse(readFileSync(join(grafanaDir, 'provisioning', name), 'utf8'));
  return { ...read('datasources/datasources.yml'), ...read('dashboards/dashboards.yml') };
}

/** Those of the panels and those of the marks in them. */
export function queriesOf({ title, panels, annotations }: Dashboard): DashboardQuery[] {
  const marks = annotations.list.map(({ name, target }) => ({
    where: `${title}, ${name}`,
    expr: target.expr,
  }));
  const shown = panels.flatMap((panel) =>
    (panel.targets ?? []).map(({ refId, expr }) => ({ where: `${title}, ${panel.title} ${refId}`, expr })),
  );
  return [...marks, ...shown];
}

/**
 * The expression that Grafana sends to Prometheus when these values are chosen: several are joined to a pattern,
 * and what means something in a pattern is escaped, once for it and once for the quotes around it.
 */
export function interpolate(expr: string, chosen: Record<string, string[]>, rateInterval: string): string {
  let sent = expr.replaceAll('$__rate_interval', rateInterval);
  for (const [name, values] of Object.entries(chosen)) {
    const escaped = values.map((value) => value.replaceAll(/[\\^$*+?.()|[\]{}]/g, String.raw`\\$&`));
    sent = sent.replaceAll(`$${name}`, () => `(${escaped.join('|')})`);
  }
  return sent;
}
