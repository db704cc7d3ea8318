import { findTool } from '../../test/support/tools.ts';

/** Paths of the programs that the drill starts. */
export interface DrillTools {
  prometheus: string;
  alertmanager: string;
  redis: string;
}

/** From PATH. @throws Error that says what to install */
export function findTools(): DrillTools {
  const prometheus = findTool('prometheus');
  // Debian's name is the longer one.
  const alertmanager = findTool('alertmanager') ?? findTool('prometheus-alertmanager');
  const redis = findTool('redis-server') ?? findTool('valkey-server');
  if (prometheus && alertmanager && redis) return { prometheus, alertmanager, redis };
  throw new Error(
    'The drill needs prometheus, alertmanager and redis-server on PATH ' +
      '(Debian: apt-get install prometheus prometheus-alertmanager redis-server).',
  );
}
