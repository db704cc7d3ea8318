import { writeSync } from 'node:fs';

/** Lines that wait for stdout: a few seconds of a busy service. */
const MAX_WAITING_BYTES = 1024 * 1024;
const FIRST_RETRY_MS = 10;
const LONGEST_RETRY_MS = 1_000;
/** Part of the time between the end of a shutdown and the end of a grace period. */
const EXIT_FLUSH_MS = 1_000;

interface LogOutputOptions {
  /** A line found no room. */
  onDropped: () => void;
  /** Everything is written again; `lines` of them were dropped since it last was. */
  onRecovered: (lines: number, cause: string) => void;
}

/**
 * Writes log lines to stdout and never waits for it: a full disk, a reader that stalls and a reader that is
 * gone cost lines, not requests. Lines that cannot be written wait in a bounded buffer; what exceeds it is
 * dropped and counted.
 *
 * All lines of a turn of the event loop are one write, because under load a system call costs more than
 * the line. Only a SIGKILL loses the lines of the turn.
 */
export class LogOutput {
  readonly #fd: number;
  readonly #options: LogOutputOptions;
  readonly #flush = (): void => this.flushSync();
  #waiting = '';
  /** The part of the lines that is being written: a write may take only some of it. */
  #chunk = Buffer.alloc(0);
  /** Why the last write failed. */
  #cause: string | undefined;
  #retryMs = FIRST_RETRY_MS;
  #timer: NodeJS.Timeout | undefined;
  #dropped = 0;
  #dropCause = '';

  /** Node makes a pipe non-blocking when process.stdout is opened; with the bare number 1, writes would block. */
  constructor({ fd }: { fd: number }, options: LogOutputOptions) {
    this.#fd = fd;
    this.#options = options;
  }

  write(line: string): void {
    if (this.#chunk.length + this.#waiting.length > MAX_WAITING_BYTES) {
      this.#dropped += 1;
      this.#dropCause = this.#cause ?? 'EAGAIN';
      this.#options.onDropped();
      return;
    }
    if (this.#waiting === '' && this.#cause === undefined) setImmediate(this.#flush);
    this.#waiting += line;
  }

  /** Writes what stdout takes now. pino calls it after a fatal line. */
  flushSync(): void {
    try {
      while (this.#chunk.length > 0 || this.#waiting !== '') {
        if (this.#chunk.length === 0) {
          this.#chunk = Buffer.from(this.#waiting);
          this.#waiting = '';
        }
        this.#chunk = this.#chunk.subarray(writeSync(this.#fd, this.#chunk));
        this.#retryMs = FIRST_RETRY_MS;
      }
    } catch (error) {
      this.#cause = (error as NodeJS.ErrnoException).code ?? 'unknown';
      this.#retryLater();
      return;
    }
    this.#cause = undefined;
    if (this.#dropped === 0) return;
    const lines = this.#dropped;
    this.#dropped = 0;
    this.#options.onRecovered(lines, this.#dropCause);
  }

  /** The last write of the process: waits a moment for a reader that is slow. */
  end(): void {
    const endMs = Date.now() + EXIT_FLUSH_MS;
    this.flushSync();
    while (this.#cause === 'EAGAIN' && Date.now() < endMs) {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, FIRST_RETRY_MS);
      this.flushSync();
    }
    // onRecovered may have added a line.
    this.flushSync();
  }

  #retryLater(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(this.#flush, this.#retryMs).unref();
    this.#retryMs = Math.min(this.#retryMs * 2, LONGEST_RETRY_MS);
  }
}
