import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8';

/** The young generation of Node 20 stops at 32 MB by itself, and pays more for less. */
const UNBOUNDED_SINCE_V8 = 12;
const YOUNG_BYTES = 8 * 2 ** 20;
/** Of the old generation: beyond it a garbage collection costs more than the memory that it saves. */
const SMALL_BYTES = 128 * 2 ** 20;
const SMALL_GROWTH_PERCENT = 30;
const LOOK_MS = 250;

/**
 * Bounds how far the heap of V8 grows before garbage is collected, and so the resident memory of the process.
 * The young generation of Node 22 and later grows to 64 MB while modules are loaded or requests run, and the old
 * one to twice what is in use; neither is given back. A busy service pays next to nothing for 8 MB and for a third
 * more than is in use. `--max-semi-space-size=4 --heap-growing-percent=30` says the same, on a command line that
 * everybody who starts the service would have to know. V8 reads these two flags, of the young generation the factor
 * of its growth, whenever a generation is about to grow: they may be set while the program runs.
 */
export function boundHeapGrowth(): void {
  if (Number.parseInt(process.versions.v8, 10) < UNBOUNDED_SINCE_V8) return;
  setGrowth({ youngFactor: 1, oldPercent: SMALL_GROWTH_PERCENT });
  setInterval(() => {
    const sizes = new Map(getHeapSpaceStatistics().map((space) => [space.space_name, space.space_size]));
    const [young = YOUNG_BYTES, old = 0] = [sizes.get('new_space'), sizes.get('old_space')];
    setGrowth({
      youngFactor: young < YOUNG_BYTES ? 2 : 1,
      // 0 leaves it to V8.
      oldPercent: old < SMALL_BYTES ? SMALL_GROWTH_PERCENT : 0,
    });
  }, LOOK_MS).unref();
}

function setGrowth({ youngFactor, oldPercent }: { youngFactor: number; oldPercent: number }): void {
  setFlagsFromString(`--semi-space-growth-factor=${youngFactor}`);
  setFlagsFromString(`--heap-growing-percent=${oldPercent}`);
}
