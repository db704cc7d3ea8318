/**
 * One run of a piece of work per id. `isCurrent()` tells the work whether it is still the run of its id: it is not
 * once the id was abandoned, and then its result is only for those that wait for it already.
 */
export function createSingleFlight<T>(overdueMs: number) {
  const flights = new Map<string, { startedAtMs: number; result: Promise<T> }>();

  return {
    /** The run to join, if there is one; nobody joins one that has been hanging for `overdueMs`. */
    find(id: string): Promise<T> | undefined {
      const flight = flights.get(id);
      return flight && performance.now() - flight.startedAtMs < overdueMs ? flight.result : undefined;
    },

    async start(id: string, work: (isCurrent: () => boolean) => Promise<T>): Promise<T> {
      // Begins a moment later, so that the flight is known before the work can ask whose it is.
      const result = Promise.resolve().then(() => work(isCurrent));
      const flight = { startedAtMs: performance.now(), result };
      const isCurrent = () => flights.get(id) === flight;
      flights.set(id, flight);
      try {
        return await result;
      } finally {
        if (isCurrent()) flights.delete(id);
      }
    },

    abandon(id: string): void {
      flights.delete(id);
    },
  };
}

/** One run at a time: a call during a run gets the result of that run. */
export function shareRun<T>(run: () => Promise<T>): () => Promise<T> {
  let running: Promise<T> | undefined;
  return () => (running ??= run().finally(() => (running = undefined)));
}
