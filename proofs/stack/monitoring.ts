// Goes with the example: src/features/orders
import { readFileSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { REPLICAS, type Stack } from './engine.ts';
import { expect, until, type Report } from './report.ts';

const RULES = fileURLToPath(new URL('../../prometheus/rules/', import.meta.url));
/** Queries that give 1 when the exporter reaches what it asks. */
const EXPORTERS = {
  'postgres-exporter': 'min(pg_up)',
  'redis-exporter': 'sum(redis_up{job="redis"}) / 2',
  'nginx-exporter': 'nginx_up',
  'node-exporter': 'count(node_memory_MemAvailable_bytes)',
  'blackbox-exporter': 'probe_success',
};
const SETTLES_SECONDS = 90;

/** What a query of Prometheus or its list of rules answers, as far as it is read here. */
interface PrometheusAnswer {
  data: {
    result: { metric: Record<string, string>; value: [number, string] }[];
    groups: { rules: { name: string; type: string }[] }[];
  };
}

export async function proveMonitoring({ compose }: Stack, services: string[], report: Report): Promise<void> {
  const ask = async (path: string): Promise<PrometheusAnswer> => {
    const url = `http://127.0.0.1:9090/api/v1/${path}`;
    return JSON.parse(await compose('exec', '-T', 'prometheus', 'wget', '-qO-', url));
  };
  const query = async (text: string) => {
    const { data } = await ask(`query?query=${encodeURIComponent(text)}`);
    return Number(data.result[0]?.value[1]);
  };
  await report.check('Prometheus has the metrics of all three, and every alert', async () => {
    const instances = 'count(count by (instance) (api_requests_total))';
    await until('three targets', async () => (await query(instances)) === REPLICAS, SETTLES_SECONDS);
    const written = readdirSync(RULES)
      .flatMap((name) => readFileSync(RULES + name, 'utf8').match(/^ *- alert: \w+/gm) ?? [])
      .map((line) => line.split(': ')[1]);
    const rules = (await ask('rules')).data.groups.flatMap((group) => group.rules);
    const loaded = rules.filter(({ type }) => type === 'alerting').map(({ name }) => name);
    expect(
      loaded.toSorted().join() === written.toSorted().join(),
      `${loaded.length} of ${written.length} alerts`,
    );
    return `${loaded.length} alerts`;
  });
  for (const [name, proof] of Object.entries(EXPORTERS)) {
    if (!services.includes(name)) continue;
    await report.check(`${name} reaches what it asks`, () =>
      until(`${proof} is 1`, async () => (await query(proof)) === 1, SETTLES_SECONDS),
    );
  }
}
