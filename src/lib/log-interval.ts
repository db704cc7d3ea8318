import type { Logger } from 'pino';

const INTERVAL_MS = 60_000;

/** Warns at most once a minute: what fails for every request would flood the log. */
export function createIntervalWarning(
  log: Logger,
): (fields: Record<string, unknown>, message: string) => void {
  let warnedAtMs = -Infinity;
  return (fields, message) => {
    if (performance.now() - warnedAtMs < INTERVAL_MS) return;
    warnedAtMs = performance.now();
    log.warn(fields, message);
  };
}
