const TICK_MS = 10;

let lostUntilTick = 0;
let lastTick = performance.now();
setInterval(() => {
  lostUntilTick = lostSoFarMs();
  lastTick = performance.now();
}, TICK_MS).unref();

/** For how long in all this process could not run when it wanted to; a tick that is late by less than another is usual. */
function lostSoFarMs(): number {
  return lostUntilTick + Math.max(0, performance.now() - lastTick - 2 * TICK_MS);
}

/**
 * Tells how long something takes on a machine that may be busy with other things: `lostMs` of the time this
 * process stood still, `ms` is the rest.
 */
export function startStopwatch(): () => { ms: number; lostMs: number } {
  const from = performance.now();
  const lostBefore = lostSoFarMs();
  return () => {
    const lostMs = lostSoFarMs() - lostBefore;
    return { ms: performance.now() - from - lostMs, lostMs };
  };
}
