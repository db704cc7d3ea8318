import { setTimeout as delay } from 'node:timers/promises';

/** A probe of a container, as its manifest writes it; what is left out has the value of Kubernetes. */
export interface Probe {
  httpGet: { path: string; port: string };
  periodSeconds?: number;
  timeoutSeconds?: number;
  successThreshold?: number;
  failureThreshold?: number;
}

/** Asks until `isOver`, and tells whenever the answer has changed for good: after as many in a row as its thresholds. */
export async function watchProbe(
  probe: Probe,
  ports: Record<string, number>,
  isOver: () => boolean,
  changed: (passes: boolean) => unknown,
): Promise<void> {
  const {
    httpGet,
    periodSeconds = 10,
    timeoutSeconds = 1,
    successThreshold = 1,
    failureThreshold = 3,
  } = probe;
  const url = `http://127.0.0.1:${ports[httpGet.port]}${httpGet.path}`;
  let told: boolean | undefined;
  let last: boolean | undefined;
  let inARow = 0;
  while (!isOver()) {
    const passes = await ask(url, timeoutSeconds * 1000);
    inARow = passes === last ? inARow + 1 : 1;
    last = passes;
    if (passes !== told && inARow >= (passes ? successThreshold : failureThreshold) && !isOver()) {
      told = passes;
      await changed(passes);
    }
    await delay(periodSeconds * 1000, undefined, { ref: false });
  }
}

async function ask(url: string, timeoutMs: number): Promise<boolean> {
  try {
    const response = await fetch(url, {
      signal: AbortSignal.timeout(timeoutMs),
      headers: { connection: 'close', 'user-agent': 'kube-probe/1.37' },
    });
    await response.arrayBuffer();
    return response.ok;
  } catch {
    return false;
  }
}
