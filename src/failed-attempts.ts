import { normalizeIP } from '@fastify/rate-limit';
import type { FastifyInstance, FastifyRequest } from 'fastify';

/** Counts a failure of the client, or only tells what is left with `{ increment: false }`. */
type CountFailures = ReturnType<FastifyInstance['createRateLimit']>;

/** One key that an address is trying, by any number of requests at once. */
interface Trial {
  requests: number;
  /** Seconds until it is welcome; 0 when it is now. */
  wait: Promise<number>;
}

/**
 * Bounds the work that guessing makes: who failed too often is refused before anything is looked up. Counts by
 * client address (IPv6 by /64), in this process alone: the guess of a 178-bit secret is hopeless anyway.
 * Keys that are still being looked up count, too, so that a burst in parallel finds no gap.
 */
export function createFailedAttempts(count: CountFailures) {
  const trialsOf = new Map<string, Map<unknown, Trial>>();

  async function waitSeconds(request: FastifyRequest, others: number): Promise<number> {
    const known = await count(request, { increment: false });
    return known.isAllowed || known.remaining > others ? 0 : Math.max(1, known.ttlInSeconds);
  }

  /** What `look` found, or the seconds until the next attempt is welcome. */
  return async function attempt<T extends object>(
    request: FastifyRequest,
    token: string | undefined,
    look: () => T | Promise<T>,
  ): Promise<T | { waitSeconds: number }> {
    const address = normalizeIP(request.ip);
    const trials = trialsOf.get(address) ?? new Map<unknown, Trial>();
    const key = token ?? request;
    const trial = trials.get(key) ?? { requests: 0, wait: waitSeconds(request, trials.size) };
    trial.requests++;
    trialsOf.set(address, trials.set(key, trial));
    try {
      const seconds = await trial.wait;
      if (seconds > 0) return { waitSeconds: seconds };
      const found = await look();
      if ('refused' in found) await count(request);
      return found;
    } finally {
      trial.requests--;
      if (trial.requests === 0) trials.delete(key);
      if (trials.size === 0) trialsOf.delete(address);
    }
  };
}
