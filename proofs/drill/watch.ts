import { once } from 'node:events';
import { createServer } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';

/** What happened to one alert: when it fired and resolved, and whom Alertmanager told. Times in ms of `performance.now()`. */
export interface AlertHistory {
  name: string;
  severity: string;
  changes: { firing: boolean; atMs: number }[];
  told: { receiver: string; firing: boolean; atMs: number }[];
}

export type AlertWatch = Awaited<ReturnType<typeof startAlertWatch>>;

interface Webhook {
  alerts: { status: 'firing' | 'resolved'; labels: { alertname: string; severity: string } }[];
}

interface PrometheusAlerts {
  data: { alerts: { state: string; labels: { alertname: string; severity: string } }[] };
}

const LOOK_EVERY_MS = 200;

/** Looks at Prometheus all the time, and is the webhook that stands for everybody who is told. */
export async function startAlertWatch(prometheusUrl: string) {
  const histories = new Map<string, AlertHistory>();

  function historyOf(labels: { alertname: string; severity: string }): AlertHistory {
    const key = `${labels.alertname} ${labels.severity}`;
    const known = histories.get(key);
    if (known) return known;
    const made = { name: labels.alertname, severity: labels.severity, changes: [], told: [] };
    histories.set(key, made);
    return made;
  }

  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const { alerts } = JSON.parse(Buffer.concat(chunks).toString()) as Webhook;
      const receiver = request.url?.slice(1) ?? '';
      const firing = new Set(
        alerts.filter(({ status }) => status === 'firing').map(({ labels }) => historyOf(labels)),
      );
      // A message holds all alerts of a name: several replicas, roles or windows are one history.
      for (const history of new Set(alerts.map(({ labels }) => historyOf(labels)))) {
        if ((history.told.at(-1)?.firing ?? false) !== firing.has(history))
          history.told.push({ receiver, firing: firing.has(history), atMs: performance.now() });
      }
      response.end();
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no TCP address');

  async function look(): Promise<void> {
    const response = await fetch(`${prometheusUrl}/api/v1/alerts`, { signal: AbortSignal.timeout(5000) });
    const { data } = (await response.json()) as PrometheusAlerts;
    const firing = new Set(
      data.alerts.filter(({ state }) => state === 'firing').map(({ labels }) => historyOf(labels)),
    );
    for (const history of histories.values()) {
      const { changes } = history;
      if ((changes.at(-1)?.firing ?? false) !== firing.has(history))
        changes.push({ firing: firing.has(history), atMs: performance.now() });
    }
  }

  // One look after another: a slow answer must not overtake the next.
  let closed = false;
  const looking = (async () => {
    while (!closed) {
      await look().catch(() => undefined);
      await delay(LOOK_EVERY_MS);
    }
  })();

  return {
    webhookUrl: `http://127.0.0.1:${address.port}`,

    /** All alerts of that name and severity; undefined before the first. */
    find: (name: string, severity: string): AlertHistory | undefined => histories.get(`${name} ${severity}`),

    all: (): AlertHistory[] => [...histories.values()],

    async close(): Promise<void> {
      closed = true;
      server.closeAllConnections();
      server.close();
      await looking;
    },
  };
}
