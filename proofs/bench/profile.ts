// Goes with the example: src/features/orders
import { mkdirSync, readFileSync } from 'node:fs';
import { drive } from './drive.ts';
import type { Report } from './report.ts';
import { startServer } from './servers.ts';
import { MAIN, TENANTS, type World } from './world.ts';

const ROOT = new URL('../../', import.meta.url);
const FOLDER = new URL('.hardpoint/profiles/', ROOT);
const LINES = 30;

/** The part of V8's CPU profile that is read here. */
interface CpuProfile {
  nodes: { id: number; callFrame: { functionName: string; url: string; lineNumber: number } }[];
  samples: number[];
  timeDeltas: number[];
}

/**
 * Where the CPU time of the cached read goes: writes a CPU profile of the service under load, which the browser's
 * developer tools open, and prints its functions and files by self time, that is, without what they call.
 */
export async function profileRead(
  report: Report,
  world: World,
  load: { connections: number; seconds: number },
) {
  const server = await startServer(MAIN, world.env);
  const { connections } = load;
  const requests = await world.reads(TENANTS);
  mkdirSync(FOLDER, { recursive: true });
  const name = `cached-read-node${process.versions.node}.cpuprofile`;
  const file = new URL(name, FOLDER).pathname;
  await drive([server], { requests, connections, duration: 5 });
  let count = 0;
  await server.profile(file, async () => {
    ({ count } = await drive([server], { requests, connections, duration: load.seconds }));
  });
  await server.stop();

  const profile = JSON.parse(readFileSync(file, 'utf8')) as CpuProfile;
  report.say(`\nWritten: ${file.slice(ROOT.pathname.length)}`);
  report.say('By self time: % of the time that was not idle, µs a request');
  for (const [title, nameOf] of [
    [
      'Functions',
      ({ functionName, url, lineNumber }) =>
        `${functionName || '(anonymous)'} ${shorten(url)}:${lineNumber + 1}`,
    ],
    ['Files', ({ url, functionName }) => shorten(url) || functionName],
    ['Packages', ({ url, functionName }) => packageOf(shorten(url)) || functionName],
  ] satisfies [string, (frame: CpuProfile['nodes'][number]['callFrame']) => string][]) {
    report.say(`\n${title}`);
    const costs = costsBy(profile, nameOf);
    const sum = costs.reduce((all, [, micros]) => all + micros, 0);
    for (const [what, micros] of costs.slice(0, LINES)) {
      const share = ((100 * micros) / sum).toFixed(1);
      report.say(`  ${share.padStart(5)} ${(micros / count).toFixed(2).padStart(6)}  ${what}`);
    }
  }
}

/** Self time by name, in µs, most first. */
function costsBy(
  { nodes, samples, timeDeltas }: CpuProfile,
  nameOf: (frame: CpuProfile['nodes'][number]['callFrame']) => string,
): [string, number][] {
  const names = new Map(
    nodes.map(({ id, callFrame }) => [
      id,
      callFrame.functionName === '(idle)' ? undefined : nameOf(callFrame),
    ]),
  );
  const times = new Map<string, number>();
  for (const [index, id] of samples.entries()) {
    const name = names.get(id);
    // What stands beside a sample is the time before it, and after the one before.
    const micros = timeDeltas[index + 1] ?? 0;
    if (name === undefined || micros < 0) continue;
    times.set(name, (times.get(name) ?? 0) + micros);
  }
  return [...times].toSorted((a, b) => b[1] - a[1]);
}

function shorten(url: string): string {
  const path = url.replace(/^file:\/\//, '');
  return path.startsWith(ROOT.pathname) ? path.slice(ROOT.pathname.length) : path;
}

/** `node_modules/pino`, `dist`, `node:net`. */
function packageOf(path: string): string {
  const [, found] = /^((?:.*node_modules\/)(?:@[^/]+\/)?[^/]+|[^/]+)/.exec(path) ?? [];
  return path.startsWith('node:') ? path : (found ?? '');
}
