import { crc32 } from 'node:zlib';
import { z } from 'zod';
import { CacheEntry, JSON_BYTES_MAX } from './entry.ts';

export interface CacheKey {
  tenant: string;
  /** What it is, such as `order`: a constant of the code. */
  name: string;
  id: string;
  /**
   * Of what was loaded from one state of the data, where a write cannot name every key that it concerns: a
   * value of another generation is not there, and is replaced.
   */
  generation?: string;
}

/** JSON keeps the parts apart whatever they contain: no two keys become one. */
export function encodeKey({ tenant, name, id, generation }: CacheKey): string {
  return JSON.stringify([tenant, name, id, ...(generation === undefined ? [] : [generation])]);
}

/** The tenant in an encoded key, as JSON. */
export function tenantOf(id: string): string {
  return id.slice(1, id.indexOf('",'));
}

/** What a text belongs to. */
export interface TextOwner {
  /** The whole encoded key. */
  id: string;
  /** The same without its generation: there is one place in Redis for all generations. */
  place: string;
  /** Of the value that the reader expects. */
  shape: string;
}

/** First in every text; raise it when the form of a text changes. */
export const CACHE_FORMAT = 2;
/** The JSON and what stands before it; what is larger is not read. */
export const TEXT_BYTES_MAX = JSON_BYTES_MAX + 2 ** 10;

/**
 * `<format> <ttl ms> <life ms> <checksum> <ETag> <JSON, or nothing for an absence>`: the script that reads it
 * in Redis needs the first three. The checksum covers everything, and the owner.
 */
export function encodeEntry({ times, etag, json = '' }: CacheEntry, owner: TextOwner): string {
  const head = `${times.ttlMs} ${times.lifeMs}`;
  return `${CACHE_FORMAT} ${head} ${checksum(owner, head, etag, json)} ${etag} ${json}`;
}

/**
 * The entry in a text that had `leftMs` of its life left at `atMs`. Undefined when the text is none, is
 * damaged, or is another owner's: of another key, or of a release in which the value has another shape.
 */
export function decodeEntry(
  text: string,
  owner: TextOwner,
  { leftMs, atMs }: { leftMs: number; atMs: number },
): CacheEntry | undefined {
  const [whole = '', head = '', found, etag = ''] = HEADER.exec(text) ?? [];
  const json = text.slice(whole.length);
  if (whole === '' || checksum(owner, head, etag, json) !== found) return undefined;
  const [ttlMs = 0, lifeMs = 0] = head.split(' ').map(Number);
  const times = { ttlMs, lifeMs, loadedAtMs: atMs - (lifeMs - leftMs) };
  return new CacheEntry(json === '' ? {} : { json }, times, { etag });
}

/** Releases with another shape of a value keep it apart, each in a slot; an invalidation empties every slot. */
export const SHAPE_SLOTS = 32;

export function slotOf(shape: string): string {
  return shape === '' ? '' : `:${crc32(shape) % SHAPE_SLOTS}`;
}

const HEADER = new RegExp(`^${CACHE_FORMAT} (\\d+ \\d+) ([0-9a-f]+) (\\S*) `);

function checksum({ id, shape }: TextOwner, head: string, etag: string, json: string): string {
  return crc32(json, crc32(`${id} ${shape} ${head} ${etag} `)).toString(16);
}

/** Another text for another schema: tells what one release stored from what the next one expects. */
export function shapeOf(schema: z.ZodType): string {
  return crc32(JSON.stringify(z.toJSONSchema(schema, { unrepresentable: 'any' }))).toString(16);
}
