/** Requests a second, for ever: what the service does while things break. */
export interface Load {
  perSecond: number;
  /** Whether the last ten answers were good ones. */
  isWell(): boolean;
  stop(): void;
}

const IN_FLIGHT_MAX = 200;
const GIVE_UP_MS = 20_000;

/**
 * Sends `request()` again and again, whatever is answered: an open loop, so that a slow service does not slow
 * the load down. At most 200 at once.
 */
export function startLoad(perSecond: number, request: () => [url: string, init?: RequestInit]): Load {
  const stopped = new AbortController();
  let inFlight = 0;
  let goodInARow = 0;
  let due = 0;
  let last = performance.now();

  const timer = setInterval(() => {
    const now = performance.now();
    due = Math.min(due + ((now - last) / 1000) * load.perSecond, 20);
    last = now;
    for (; due >= 1; due -= 1) if (inFlight < IN_FLIGHT_MAX) void send();
  }, 20);

  async function send(): Promise<void> {
    inFlight += 1;
    const [url, init] = request();
    try {
      const signal = AbortSignal.any([stopped.signal, AbortSignal.timeout(GIVE_UP_MS)]);
      const response = await fetch(url, { ...init, signal });
      await response.arrayBuffer();
      goodInARow = response.ok ? goodInARow + 1 : 0;
    } catch {
      goodInARow = 0;
    } finally {
      inFlight -= 1;
    }
  }

  const load = {
    perSecond,
    isWell: () => goodInARow >= 10,
    stop() {
      clearInterval(timer);
      stopped.abort();
    },
  };
  return load;
}
