import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import type { Test } from 'tap';
import { findFreePort } from '../../src/commands/free-port.ts';
import { prometheusDir } from './alert-rules.ts';
import { forgetProcess, registerProcess, signalTree } from './processes.ts';
import { findTool, requireTool } from './tools.ts';
import { until } from './until.ts';

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
  const folder = mkdtempSync(join(tmpdir(), 'hardpoint-test-'));
  const url = `http://127.0.0.1:${await findFreePort()}`;
  const args = [
    `--config.file=${join(prometheusDir, 'alertmanager.yml')}`,
    `--storage.path=${folder}`,
    `--web.listen-address=${new URL(url).host}`,
    '--cluster.listen-address=',
  ];
  const { pid } = spawn(file, args, { stdio: 'ignore' });
  if (pid === undefined) throw new Error(`${file} did not start`);
  registerProcess(pid, basename(file), folder);
  t.teardown(() => {
    signalTree(pid, 'SIGKILL');
    forgetProcess(pid);
    rmSync(folder, { recursive: true, force: true });
  });
  const answers = () =>
    fetch(`${url}/-/ready`).then(
      ({ ok }) => ok,
      () => false,
    );
  await until('Alertmanager is ready', answers, 20_000);

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
