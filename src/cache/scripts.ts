import type { Result } from 'ioredis';
import { CACHE_FORMAT, SHAPE_SLOTS, TEXT_BYTES_MAX } from './serialization.ts';
import type { RedisHandle } from '../redis/redis.ts';

/** How long a lease outlives a holder that renews it no more. */
export const LEASE_MS = 2000;
/** For so long nobody waits for the load of a value that turned out to be too big. */
export const TOO_BIG_MS = 5000;

/** Three scripts as commands of the client; each is one step on the value and the lease of whoever loads it. */
export function defineCacheCommands(client: RedisHandle['client']): void {
  client.defineCommand('cacheRead', { numberOfKeys: 2, lua: READ });
  client.defineCommand('cacheSettle', { numberOfKeys: 2, lua: SETTLE });
  client.defineCommand('cachePurge', { numberOfKeys: 1, lua: PURGE });
}

/**
 * KEYS value, lease; ARGV token, age in ttls up to which a value is good enough → { text or nil, ms left,
 * state }. A value that is good enough needs no lease. What is no entry or no lease goes: of another type or
 * format, too long, or with an end that is missing or too far ahead, as after the clock was set back.
 */
const READ = `
local size = redis.pcall('strlen', KEYS[1])
local left = redis.call('pttl', KEYS[1])
local text, ttl, life = false
if type(size) == 'number' and size <= ${TEXT_BYTES_MAX} then
  text = redis.call('get', KEYS[1])
  if text then ttl, life = string.match(text, '^${CACHE_FORMAT} (%d+) (%d+) ') end
end
if left ~= -2 and (not ttl or left < 0 or left > tonumber(life)) then
  redis.call('unlink', KEYS[1])
  text = false
end
if text and life - left < ttl * ARGV[2] then
  return { text, left, 'found' }
end
local held = redis.call('pttl', KEYS[2])
if held == -1 or held > ${TOO_BIG_MS} then
  redis.call('unlink', KEYS[2])
end
if redis.call('set', KEYS[2], ARGV[1], 'px', ${LEASE_MS}, 'nx') then
  return { text, left, 'claimed' }
end
if redis.pcall('get', KEYS[2]) == 'too-big' then
  return { text, left, 'too-big' }
end
return { text, left, 'busy' }
`;

/**
 * KEYS value, lease; ARGV token, what the lease becomes ('': none), for so many ms, and, to store it, a text
 * with its ms. Does nothing unless the lease is still the token's: that is, when it ran out or the key was
 * purged.
 */
const SETTLE = `
if redis.pcall('get', KEYS[2]) ~= ARGV[1] then
  return 0
end
if ARGV[2] == '' then
  redis.call('del', KEYS[2])
else
  redis.call('set', KEYS[2], ARGV[2], 'px', ARGV[3])
end
if ARGV[4] then
  redis.call('set', KEYS[1], ARGV[4], 'px', ARGV[5])
end
return 1
`;

/** KEYS value; ARGV channel, message. The slots of shapes are of the same cluster slot. */
const PURGE = `
local keys = { KEYS[1], KEYS[1] .. ':lease' }
for slot = 0, ${SHAPE_SLOTS - 1} do
  keys[#keys + 1] = KEYS[1] .. ':' .. slot
  keys[#keys + 1] = KEYS[1] .. ':' .. slot .. ':lease'
end
redis.call('unlink', unpack(keys))
return redis.call('publish', ARGV[1], ARGV[2])
`;

declare module 'ioredis' {
  interface RedisCommander<Context> {
    cacheRead(
      valueKey: string,
      leaseKey: string,
      token: string,
      maxAgeInTtls: number,
    ): Result<
      [text: string | null, leftMs: number, state: 'found' | 'claimed' | 'busy' | 'too-big'],
      Context
    >;
    cacheSettle(
      valueKey: string,
      leaseKey: string,
      token: string,
      lease: string,
      leaseMs: number,
      ...stored: [] | [text: string, lifeMs: number]
    ): Result<number, Context>;
    cachePurge(valueKey: string, channel: string, message: string): Result<number, Context>;
  }
}
