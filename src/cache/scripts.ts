import { defineScript, type RedisClient } from '../redis/connection.ts';
import { CACHE_FORMAT, SHAPE_SLOTS, TEXT_BYTES_MAX } from './serialization.ts';

/** How long a lease outlives a holder that no longer renews it. */
export const LEASE_MS = 2000;
/** For so long no process waits for another that loads a value which turned out to be too large. */
export const TOO_BIG_MS = 5000;

export interface CacheScripts {
  read(
    valueKey: string,
    leaseKey: string,
    token: string,
    maxAgeInTtls: number,
  ): Promise<[text: string | null, leftMs: number, state: 'found' | 'claimed' | 'busy' | 'too-big']>;
  settle(
    valueKey: string,
    leaseKey: string,
    token: string,
    lease: string,
    leaseMs: number,
    ...stored: [] | [text: string, lifeMs: number]
  ): Promise<number>;
  purge(valueKey: string, channel: string, message: string): Promise<number>;
}

/** Each script is one step on the value and the lease of the process that loads it. */
export function defineCacheScripts(client: RedisClient): CacheScripts {
  return {
    read: defineScript(client, { name: 'cacheRead', keys: 2, lua: READ }),
    settle: defineScript(client, { name: 'cacheSettle', keys: 2, lua: SETTLE }),
    purge: defineScript(client, { name: 'cachePurge', keys: 1, lua: PURGE }),
  };
}

/**
 * KEYS value, lease; ARGV token, age in ttls up to which a value is good enough → { text or nil, ms left,
 * state }. A value that is good enough needs no lease. What is no entry or no lease is removed: another type or
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
 * with its ms. Does nothing if the lease is no longer the token's: it expired, or the key was purged.
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
