import type { Test } from 'tap';
import { stringify } from 'yaml';
import { startProgram } from './programs.ts';

/** One series of an answer: its labels, and time and value of the last sample. */
export interface Sample {
  metric: Record<string, string>;
  value: [number, string];
}

export interface PrometheusOptions {
  /** Of the `prometheus` program. */
  file: string;
  /** host:port of what is scraped, by the name of the job. */
  targets: Record<string, string>;
  /** Rule files, by their names. */
  rules: Record<string, string>;
}

/** A Prometheus that scrapes, and evaluates its rules, each second; ended with `t`. */
export async function startPrometheus(t: Test, { file, targets, rules }: PrometheusOptions) {
  const config = {
    global: { scrape_interval: '1s', scrape_timeout: '1s', evaluation_interval: '1s' },
    rule_files: Object.keys(rules),
    scrape_configs: Object.entries(targets).map(([job, address]) => ({
      job_name: job,
      // The rules are about this namespace only.
      static_configs: [{ targets: [address], labels: { namespace: 'hardpoint' } }],
    })),
  };
  const { url } = await startProgram(t, {
    file,
    args: (address, folder) => [
      `--config.file=${folder}/prometheus.yml`,
      `--storage.tsdb.path=${folder}/data`,
      `--web.listen-address=${address}`,
      '--log.level=warn',
    ],
    files: { ...rules, 'prometheus.yml': stringify(config) },
    readyPath: '/-/ready',
  });

  /** @throws Error with what Prometheus says about the request */
  async function ask<T>(path: string, parameters: Record<string, string>): Promise<T> {
    const response = await fetch(`${url}/api/v1/${path}?${new URLSearchParams(parameters).toString()}`);
    const { data, error } = (await response.json()) as { data?: T; error?: string };
    if (data === undefined) throw new Error(`${error}: ${JSON.stringify(parameters)}`);
    return data;
  }

  return {
    url,

    async query(expr: string): Promise<Sample[]> {
      return (await ask<{ result: Sample[] }>('query', { query: expr })).result;
    },

    /** Every value that a label of the selected series has. */
    labelValues(label: string, selector: string): Promise<string[]> {
      return ask(`label/${label}/values`, { 'match[]': selector });
    },
  };
}
