import { join } from 'node:path';
import { writeDrillConfig } from './config.ts';
import type { DrillTools } from './tools.ts';

export interface MonitoringOptions {
  tools: DrillTools;
  /** For configuration and data. */
  folder: string;
  ports: { metrics: number; prometheus: number; alertmanager: number };
  webhookUrl: string;
}

interface Plan {
  file: string;
  args: string[];
  readyUrl: string;
}

/** Writes the configuration for the drill and says how to start the two programs. */
export function planMonitoring(
  from: string,
  { tools, folder, ports, webhookUrl }: MonitoringOptions,
): Record<'prometheus' | 'alertmanager', Plan> {
  const [metrics, prometheus, alertmanager] = [ports.metrics, ports.prometheus, ports.alertmanager].map(
    (port) => `127.0.0.1:${port}`,
  ) as [string, string, string];
  writeDrillConfig(from, folder, { metrics, prometheus, alertmanager, webhookUrl });
  return {
    alertmanager: {
      file: tools.alertmanager,
      args: [
        `--config.file=${join(folder, 'alertmanager.yml')}`,
        `--storage.path=${join(folder, 'alertmanager')}`,
        `--web.listen-address=${alertmanager}`,
        '--cluster.listen-address=',
      ],
      readyUrl: `http://${alertmanager}/-/ready`,
    },
    prometheus: {
      file: tools.prometheus,
      args: [
        `--config.file=${join(folder, 'prometheus.yml')}`,
        `--storage.tsdb.path=${join(folder, 'prometheus')}`,
        `--web.listen-address=${prometheus}`,
        // The default is a minute, and the first alert comes before Alertmanager was found.
        '--rules.alert.resend-delay=2s',
      ],
      readyUrl: `http://${prometheus}/-/ready`,
    },
  };
}
