import { ServerResponse, type IncomingMessage } from 'node:http';

/** Writes of answers that ended in this turn of the event loop. */
let due: (() => void)[] = [];

/**
 * Writes the answers of one turn of the event loop at its end, one right after the other, instead of each when it
 * is ready. A write wakes a client that waits for it, and on one machine (nginx, a sidecar) the writer pays for
 * that; a client that is still busy with the answer before need not be woken. An answer waits for the rest of its
 * turn at most. For everybody else it has ended when `end` was called.
 */
export class BatchedResponse<
  Request extends IncomingMessage = IncomingMessage,
> extends ServerResponse<Request> {
  #ended = false;

  static {
    // Not by `get`: for the types of Node it is a field, which no accessor may stand for.
    Object.defineProperty(BatchedResponse.prototype, 'writableEnded', {
      get(this: BatchedResponse) {
        return this.#ended;
      },
    });
  }

  override end(...args: unknown[]): this {
    this.#ended = true;
    if (due.length === 0) setImmediate(writeAll);
    due.push(() => super.end(...(args as Parameters<ServerResponse['end']>)));
    return this;
  }
}

function writeAll(): void {
  const writes = due;
  due = [];
  for (const write of writes) write();
}
