import type { FastifyReply, FastifyRequest } from 'fastify';

/** A request from its first hook to the end of its answer. */
export interface RunningRequest {
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
  /** On the clock of `performance.now()`. */
  readonly startedMs: number;
  readonly slot: number;
  /** Took longer than REQUEST_TIMEOUT_SECONDS, and was ended. */
  timedOut: boolean;
}

/**
 * The requests that are being worked on, in no order. In slots that are used again: a Map that fills and
 * empties with every turn of the event loop is rebuilt with every turn, and each of its old tables keeps the
 * requests that it held until the next full garbage collection.
 */
export class RunningRequests {
  readonly #slots: (RunningRequest | undefined)[] = [];
  readonly #free: number[] = [];

  get size(): number {
    return this.#slots.length - this.#free.length;
  }

  start(request: FastifyRequest, reply: FastifyReply): RunningRequest {
    const slot = this.#free.pop() ?? this.#slots.length;
    return (this.#slots[slot] = { request, reply, startedMs: performance.now(), slot, timedOut: false });
  }

  /** Once for each that was started. */
  end({ slot }: RunningRequest): void {
    this.#slots[slot] = undefined;
    this.#free.push(slot);
  }

  *[Symbol.iterator](): Generator<RunningRequest> {
    for (const running of this.#slots) if (running) yield running;
  }
}
