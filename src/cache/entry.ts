/** What is larger is not cached. */
export const JSON_BYTES_MAX = 2 ** 20;

const STALE_ON_ERROR_MS = 300_000;
const NEGATIVE_TTL_MS = 5000;

export interface EntryTimes {
  readonly ttlMs: number;
  readonly lifeMs: number;
  /** When its load began, on the clock of `performance.now()` of this process. */
  readonly loadedAtMs: number;
}

/** How a value is cached. */
export interface EntryFormat<T> {
  /** Kept beside the value, so that its version is known without parsing it. Without blanks. */
  etagOf?: (value: T) => string;
  /** Writes the JSON; JSON.stringify unless given. */
  write?: ((value: T) => string) | undefined;
}

/**
 * One cached value and how long it is good:
 *
 *     0 ────── fresh ────── ttl ────── stale ────── 2 ttl ────── only if loading fails ────── life
 *
 * A remembered absence (`json` is undefined) is only ever fresh: its life ends with its ttl.
 */
export class CacheEntry<T = unknown> {
  readonly times: EntryTimes;
  /** '' when there is none. */
  readonly etag: string;
  readonly #write: (value: T) => string;
  #json: string | undefined;
  #value: T | undefined;

  /** One of value and JSON is enough: the other is made when it is first read. */
  constructor(
    content: { json?: string; value?: T | undefined },
    times: EntryTimes,
    { etag = '', write = JSON.stringify }: { etag?: string; write?: EntryFormat<T>['write'] } = {},
  ) {
    this.times = times;
    this.etag = etag;
    this.#json = content.json;
    this.#value = content.value;
    this.#write = write;
  }

  /** As it was stored, ready to be sent; undefined for an absence. */
  get json(): string | undefined {
    if (this.#json === undefined && this.#value !== undefined) this.#json = this.#write(this.#value);
    return this.#json;
  }

  /**
   * As parsed from the JSON (a Date is a string), deeply frozen, because many requests share it; undefined for an
   * absence.
   */
  get value(): T | undefined {
    if (this.#value === undefined && this.#json !== undefined) {
      this.#value = deepFreeze(JSON.parse(this.#json)) as T;
    }
    return this.#value;
  }

  get ageMs(): number {
    return performance.now() - this.times.loadedAtMs;
  }

  /** For `Age` (RFC 9111). */
  get ageSeconds(): number {
    return Math.floor(this.ageMs / 1000);
  }

  /** Below 1 it is fresh. */
  get ageInTtls(): number {
    return this.ageMs / this.times.ttlMs;
  }
}

/**
 * What was just loaded, to be cached. The ttl gets a jitter of 10 %, so that what was filled together does not
 * expire together, and begins when the load ends. Throws for what JSON cannot hold (BigInt, a cycle).
 */
export function createEntry<T>(
  value: T | undefined,
  loadedAtMs: number,
  { ttlSeconds, etagOf, write = JSON.stringify }: EntryFormat<T> & { ttlSeconds: number },
): CacheEntry<T> {
  const tookMs = performance.now() - loadedAtMs;
  const freshMs = Math.max(1, ttlSeconds * 1000 * (0.9 + Math.random() * 0.2));
  if (value === undefined) {
    const ttlMs = Math.ceil(tookMs + Math.min(freshMs, NEGATIVE_TTL_MS));
    return new CacheEntry({}, { ttlMs, lifeMs: ttlMs, loadedAtMs });
  }
  const json = write(value) as string | undefined;
  if (json === undefined) throw new TypeError(`JSON has no ${typeof value}`);
  const ttlMs = Math.ceil(tookMs + freshMs);
  const times = { ttlMs, lifeMs: 2 * ttlMs + STALE_ON_ERROR_MS, loadedAtMs };
  return new CacheEntry<T>({ json }, times, { etag: etagOf?.(value) ?? '' });
}

/** What was loaded and is not cached. */
export function createPassingEntry<T>(
  value: T | undefined,
  loadedAtMs: number,
  { etagOf, write }: EntryFormat<T>,
): CacheEntry<T> {
  const etag = value === undefined ? '' : (etagOf?.(value) ?? '');
  return new CacheEntry<T>({ value }, { ttlMs: 0, lifeMs: 0, loadedAtMs }, { etag, write });
}

function deepFreeze(value: unknown): unknown {
  if (typeof value === 'object' && value !== null) {
    for (const part of Object.values(value)) deepFreeze(part);
    Object.freeze(value);
  }
  return value;
}
