import { createHmac, randomInt } from 'node:crypto';
import { crc32 } from 'node:zlib';

/** First part of every key. Secret scanners look for it, so it must not change once keys are out. */
export const KEY_PREFIX = 'hp';

const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const ID_LENGTH = 12;
/** 30 base62 characters hold 178 bits. */
const SECRET_LENGTH = 30;
const CRC_LENGTH = 6;
const TOKEN = new RegExp(
  `^${KEY_PREFIX}_([a-z]{2,10})_([0-9A-Za-z]{${ID_LENGTH}})_([0-9A-Za-z]{${SECRET_LENGTH}})([0-9A-Za-z]{${CRC_LENGTH}})$`,
);

export interface ParsedToken {
  environment: string;
  /** Public part: names the key in lists, logs and URLs. */
  id: string;
}

/**
 * Makes a key `hp_<env>_<id>_<secret><crc>`. The CRC lets a server, and a scanner without a
 * database, refuse a mistyped or invented key offline (the idea of GitHub's token format).
 */
export function createToken(environment: string): { id: string; token: string } {
  const id = randomText(ID_LENGTH);
  const body = `${KEY_PREFIX}_${environment}_${id}_${randomText(SECRET_LENGTH)}`;
  return { id, token: body + checksum(body) };
}

/** Takes a key apart when its shape and checksum are right; costs no I/O. */
export function parseToken(token: string): ParsedToken | undefined {
  const match = TOKEN.exec(token);
  if (!match) return undefined;
  const [, environment = '', id = '', , crc] = match;
  return checksum(token.slice(0, -CRC_LENGTH)) === crc ? { environment, id } : undefined;
}

/**
 * What is stored instead of the key: HMAC-SHA-256 under API_KEY_SECRET, 32 bytes. A slow hash
 * would add nothing: the secret has 178 random bits.
 */
export function digestToken(token: string, keySecret: string): Buffer {
  return createHmac('sha256', keySecret).update(token).digest();
}

/** Last characters of the secret, so that a person can tell two keys apart in a list. */
export function tokenHint(token: string): string {
  return token.slice(-CRC_LENGTH - 4, -CRC_LENGTH);
}

function randomText(length: number): string {
  let text = '';
  while (text.length < length) text += ALPHABET[randomInt(ALPHABET.length)];
  return text;
}

function checksum(text: string): string {
  let rest = crc32(text);
  let encoded = '';
  for (let i = 0; i < CRC_LENGTH; i++) {
    encoded = `${ALPHABET[rest % 62]}${encoded}`;
    rest = Math.floor(rest / 62);
  }
  return encoded;
}
