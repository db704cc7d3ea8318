import type { Redis, Result } from 'ioredis';
import { CACHE_FORMAT } from './cache-entry.ts';

/** Three scripts as commands of the client; each is one step on the value and the lease of whoever loads it. */
export function defineCacheCommands(client: Redis): void {
  client.defineCommand('cacheRead', { numberOfKeys: 2, lua: READ });
  client.defineCommand('cacheFill', { numberOfKeys: 2, lua: FILL });
  client.defineCommand('cachePurge', { numberOfKeys: 2, lua: PURGE });
}

/**
 * KEYS value, lease; ARGV token, lease ms, largest age in ttls → { text or nil, ms left, state }.
 * A servable value needs no lease. What is no entry (another type, another format, no expiry) goes.
 */
const READ = `
local text = redis.pcall('get', KEYS[1])
local left = redis.call('pttl', KEYS[1])
local ttl, life
if type(text) == 'string' then
  ttl, life = string.match(text, '^${CACHE_FORMAT} (%d+) (%d+) ')
end
if text and (not ttl or left < 0) then
  redis.call('unlink', KEYS[1])
  text = false
end
if text and life - left < ttl * ARGV[3] then
  return { text, left, 'none' }
end
if redis.call('set', KEYS[2], ARGV[1], 'px', ARGV[2], 'nx') then
  return { text, left, 'claimed' }
end
if redis.call('get', KEYS[2]) == 'too-big' then
  return { text, left, 'too-big' }
end
return { text, left, 'busy' }
`;

/**
 * KEYS value, lease; ARGV token, text, ms. Stores the text for so long if the lease is still the
 * token's; with an empty text only gives the lease back, or marks it too big for so long.
 */
const FILL = `
if redis.call('get', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('del', KEYS[2])
if ARGV[2] ~= '' then
  redis.call('set', KEYS[1], ARGV[2], 'px', ARGV[3])
elseif ARGV[3] ~= '0' then
  redis.call('set', KEYS[2], 'too-big', 'px', ARGV[3])
end
return 1
`;

/** KEYS value, lease; ARGV channel, message. */
const PURGE = `
redis.call('unlink', KEYS[1], KEYS[2])
return redis.call('publish', ARGV[1], ARGV[2])
`;

declare module 'ioredis' {
  interface RedisCommander<Context> {
    cacheRead(
      valueKey: string,
      leaseKey: string,
      token: string,
      leaseMs: number,
      maxAge: number,
    ): Result<[text: string | null, leftMs: number, state: 'none' | 'claimed' | 'busy' | 'too-big'], Context>;
    cacheFill(
      valueKey: string,
      leaseKey: string,
      token: string,
      text: string,
      milliseconds: number,
    ): Result<number, Context>;
    cachePurge(valueKey: string, leaseKey: string, channel: string, message: string): Result<number, Context>;
  }
}
