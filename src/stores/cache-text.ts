import { crc32 } from 'node:zlib';
import { z } from 'zod';
import { CacheEntry, JSON_BYTES_MAX } from './cache-entry.ts';

export interface CacheKey {
  tenant: string;
  /** What it is, such as `order`: a constant of the code. */
  name: string;
  id: string;
}

/** JSON keeps the three parts apart whatever they contain: no two keys become one. */
export function encodeKey({ tenant, name, id }: CacheKey): string {
  return JSON.stringify([tenant, name, id]);
}

/** What a text belongs to: the encoded key, and the shape of the value that the reader expects. */
export interface TextOwner {
  id: string;
  shape: string;
}

/**
 * First in every text; raise it when the form of a text changes. It is no part of the key, or one release
 * would not reach what another has stored when it invalidates.
 */
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

const HEADER = new RegExp(`^${CACHE_FORMAT} (\\d+ \\d+) ([0-9a-f]+) (\\S*) `);

function checksum({ id, shape }: TextOwner, head: string, etag: string, json: string): string {
  return crc32(json, crc32(`${id} ${shape} ${head} ${etag} `)).toString(16);
}

/** Another text for another schema: tells what one release stored from what the next one expects. */
export function shapeOf(schema: z.ZodType): string {
  return crc32(JSON.stringify(z.toJSONSchema(schema, { unrepresentable: 'any' }))).toString(16);
}
