import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8';

/** The one of Node 20 stops at 32 MB by itself, and pays more for less. */
const UNBOUNDED_SINCE_V8 = 12;
const BOUND_BYTES = 16 * 2 ** 20;
const LOOK_MS = 250;

/**
 * Bounds the young generation of V8, and so the resident memory of the process: V8 of Node 22 and later lets
 * it grow to 64 MB while modules are loaded or requests run, and does not give them back; 16 MB cost a busy
 * service little more garbage collection. `--max-semi-space-size=8` says the same, on a command line that
 * everybody who starts the service would have to know. Of what a running program may still say to V8, the
 * factor of growth is the one that it reads whenever the young generation is about to grow.
 */
export function boundYoungGeneration(): void {
  if (Number.parseInt(process.versions.v8, 10) < UNBOUNDED_SINCE_V8) return;
  allowGrowth(false);
  setInterval(() => {
    const young = getHeapSpaceStatistics().find((space) => space.space_name === 'new_space');
    allowGrowth(young !== undefined && young.space_size < BOUND_BYTES);
  }, LOOK_MS).unref();
}

function allowGrowth(allowed: boolean): void {
  setFlagsFromString(`--semi-space-growth-factor=${allowed ? 2 : 1}`);
}
