import { join } from 'node:path';
import type { Test } from 'tap';
import { prometheusDir } from './alert-rules.ts';
import { startProgram } from './programs.ts';
import { findTool, requireTool } from './tools.ts';

/** What Alertmanager tells of one alert. */
export interface AlertState {
  labels: Record<string, string>;
  receivers: { name: string }[];
  status: { state: 'unprocessed' | 'active' | 'suppressed'; inhibitedBy: string[] };
}

/** Alertmanager with the project's configuration, on loopback; ended with `t`. Undefined after skipping `t`. */
export async function startAlertmanager(t: Test) {
  // Debian renames it: "alertmanager" is too common a word there.
  const file = findTool('alertmanager') ?? requireTool(t, 'prometheus-alertmanager');
  if (file === undefined) return undefined;
  const { url } = await startProgram(t, {
    file,
    args: (address, folder) => [
      `--config.file=${join(prometheusDir, 'alertmanager.yml')}`,
      `--storage.path=${folder}`,
      `--web.listen-address=${address}`,
      '--cluster.listen-address=',
    ],
    readyPath: '/-/ready',
  });

  return {
    async post(alerts: Record<string, string>[]): Promise<void> {
      const body = JSON.stringify(alerts.map((labels) => ({ labels })));
      const headers = { 'content-type': 'application/json' };
      const { status } = await fetch(`${url}/api/v2/alerts`, { method: 'POST', headers, body });
      if (status !== 200) throw new Error(`Alertmanager answered ${status}`);
    },

    async list(): Promise<AlertState[]> {
      return (await (await fetch(`${url}/api/v2/alerts`)).json()) as AlertState[];
    },
  };
}
