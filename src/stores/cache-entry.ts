/**
 * One cached value and how long it is good:
 *
 *     0 ────── fresh ────── ttl ────── stale ────── 2 ttl ────── only if loading fails ────── life
 *
 * A remembered absence (`value` is undefined) is only ever fresh: its life ends with its ttl.
 */
export interface CacheEntry {
  readonly value: unknown;
  readonly ttlMs: number;
  readonly lifeMs: number;
  /** On the clock of `performance.now()` of this process. */
  readonly loadedAtMs: number;
  /** Length of the JSON text. */
  readonly size: number;
}

export interface CacheKey {
  tenant: string;
  /** What it is, such as `order`: a constant of the code. */
  name: string;
  id: string;
}

/** Part of every text and of every Redis key: raise it when the form of an entry changes. */
export const CACHE_FORMAT = 1;

const STALE_ON_ERROR_MS = 300_000;
const NEGATIVE_TTL_MS = 5000;

/** JSON keeps the three parts apart whatever they contain: no two keys become one. */
export function encodeKey({ tenant, name, id }: CacheKey): string {
  return JSON.stringify([tenant, name, id]);
}

/**
 * `<format> <ttl ms> <life ms> <JSON, or nothing for an absence>`: the script that reads it in Redis
 * needs the numbers. The ttl gets a jitter of 10 %, so that what was filled together does not expire
 * together. Throws for what JSON cannot hold (BigInt, a cycle).
 */
export function encodeEntry(value: unknown, ttlSeconds: number): string {
  const jitter = 0.9 + Math.random() * 0.2;
  const ttlMs = Math.max(1, Math.round(ttlSeconds * 1000 * jitter));
  if (value === undefined) {
    const negativeMs = Math.min(ttlMs, NEGATIVE_TTL_MS);
    return `${CACHE_FORMAT} ${negativeMs} ${negativeMs} `;
  }
  return `${CACHE_FORMAT} ${ttlMs} ${2 * ttlMs + STALE_ON_ERROR_MS} ${JSON.stringify(value)}`;
}

/**
 * The entry in a text that has `leftMs` of its life left; undefined when the text is none. The value is
 * frozen through and through: one object is handed to many requests.
 */
export function decodeEntry(text: string, leftMs = Infinity): CacheEntry | undefined {
  const header = HEADER.exec(text);
  if (!header) return undefined;
  const ttlMs = Number(header[1]);
  const lifeMs = Number(header[2]);
  const ageMs = Math.max(0, lifeMs - leftMs);
  const json = text.slice(header[0].length);
  try {
    const value: unknown = json === '' ? undefined : deepFreeze(JSON.parse(json));
    return { value, ttlMs, lifeMs, loadedAtMs: performance.now() - ageMs, size: text.length };
  } catch {
    return undefined;
  }
}

const HEADER = new RegExp(`^${CACHE_FORMAT} (\\d+) (\\d+) `);

function deepFreeze(value: unknown): unknown {
  if (typeof value === 'object' && value !== null) {
    for (const part of Object.values(value)) deepFreeze(part);
    Object.freeze(value);
  }
  return value;
}
