import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Paths of the programs that the drill starts. */
export interface DrillTools {
  prometheus: string;
  alertmanager: string;
  redis: string;
}

/** From PATH. @throws Error that says what to install */
export function findTools(): DrillTools {
  const prometheus = findProgram('prometheus');
  // Debian's name is the longer one.
  const alertmanager = findProgram('alertmanager', 'prometheus-alertmanager');
  const redis = findProgram('redis-server', 'valkey-server');
  if (prometheus && alertmanager && redis) return { prometheus, alertmanager, redis };
  throw new Error(
    'The drill needs prometheus, alertmanager and redis-server on PATH ' +
      '(Debian: apt-get install prometheus prometheus-alertmanager redis-server).',
  );
}

function findProgram(...names: string[]): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter).filter(Boolean);
  return names.flatMap((name) => folders.map((folder) => join(folder, name))).find(isExecutable);
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
