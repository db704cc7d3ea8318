import { CELLS } from './lease-state.ts';
import type { RunScript } from './lease.ts';
import { defineScript } from '../redis/connection.ts';
import type { RedisHandle } from '../redis/redis.ts';

/**
 * One atomic step in Redis for one limit. Its state is "epoch:", since when it is remembered, and pairs
 * "ends tokens", one a cell of `width`: so many tokens count against the limit until `ends`, the last
 * moment in the cell. An "L" marks tokens that are leased. Time is the server's, in µs. Steps: forget what
 * has left the window, settle the lease that the process gives back, grant the next one, say when more comes.
 *
 * KEYS[1] the limit. ARGV: 1 window, 2 life of a lease, 3 width (ms); 4 limit; 5 least and 6 most
 * tokens wanted, 7 tokens that requests wait for; 8 tokens that must be free before a refused process
 * shall ask again; 9 the latest time that this server can show unless its clock was moved; 10 the epoch
 * that the process knows, 11 end and 12 tokens of the lease given back; then of each part spent: tokens,
 * ms since the last.
 * Answers granted, its end, left, ms until more, time, epoch; or -1, and nothing changed, when the clock
 * was moved.
 */
export const LEASE_SCRIPT = `
local arg = {}
for i = 1, #ARGV do arg[i] = tonumber(ARGV[i]) end
local window, life, width = arg[1] * 1000, arg[2] * 1000, arg[3] * 1000
local limit, least, most, waiting, batch = unpack(arg, 4, 8)
local latest, known, leaseEnds, leased = unpack(arg, 9, 12)

local time = redis.call('time')
local now = time[1] * 1000000 + time[2]
if now > latest then return { -1 } end

local cells = {}
-- Leases have cells of their own: they count for longer than what was used beside their end, and are found again.
local function count(ends, tokens, mark)
  local cell = math.floor(ends / width)
  if mark == 'L' then cell = cell + 0.5 end
  local held = cells[cell] or { ends = 0, tokens = 0, mark = mark }
  held.ends = math.max(held.ends, ends)
  held.tokens = held.tokens + tokens
  cells[cell] = held
end

-- No lease lives for more than half a window: where an end lies further ahead, the clock was set back.
local furthest = now + window + math.max(window / 2, life)
local state = redis.call('get', KEYS[1]) or ''
local epoch = tonumber(string.match(state, '^%d+')) or now
for ends, tokens, mark in string.gmatch(state, '(%d+) (%d+)(L?)') do
  ends = math.min(tonumber(ends), furthest)
  if ends > now then count(ends, tonumber(tokens), mark) end
end

local function earlier(a, b) return a.ends < b.ends end
-- A cell moves the end of a lease to a later one, but not out of the widest cell that a process may use. Tokens are
-- taken from the earliest ends on: what is left counts for as long as the other leases must.
local function settle(ends, tokens)
  local widest = math.ceil(arg[1] / ${CELLS}) * 1000
  local stop = (math.floor(ends / widest) + 1) * widest
  local found, sum = {}, 0
  for _, held in pairs(cells) do
    if held.mark == 'L' and held.ends >= ends and held.ends < stop then
      found[#found + 1] = held
      sum = sum + held.tokens
    end
  end
  if sum < tokens then return false end
  table.sort(found, earlier)
  for _, held in ipairs(found) do
    local part = math.min(held.tokens, tokens)
    held.tokens, tokens = held.tokens - part, tokens - part
  end
  return true
end
if leased > 0 and known == epoch and leaseEnds > now and leaseEnds <= furthest then
  -- Not found: a replica that was behind took over.
  if not settle(leaseEnds, leased) then epoch = now end
end
for i = 13, #arg, 2 do
  local tokens, age = arg[i], math.floor(arg[i + 1] * 1000)
  if age < window then count(now + window - age, tokens, '') end
end

local used = 0
for _, held in pairs(cells) do used = used + held.tokens end
local free, ends = limit - used, now + life + window
-- Half of what is free: others come, too. The last crumbs are worth no question each.
local fair = math.max(math.ceil(free / 2), math.floor(limit / 40))
local granted = 0
if free >= least then granted = math.min(free, math.max(waiting, math.min(most, fair))) end
if granted > 0 then count(ends, granted, 'L') end

local kept = {}
for _, held in pairs(cells) do if held.tokens > 0 then kept[#kept + 1] = held end end
table.sort(kept, earlier)
local left = free - granted
local enough = math.max(least, math.min(batch, limit))
local wait, coming, pairsOf = 0, left, {}
for i, held in ipairs(kept) do
  if coming < enough then wait = held.ends - now end
  coming = coming + held.tokens
  pairsOf[i] = string.format('%.0f %d%s', held.ends, held.tokens, held.mark)
end
-- Waiting for what was just granted: when that is used up, it can be told better.
if granted > 0 and now + wait >= ends then wait = 0 end
if #kept > 0 then
  state = string.format('%.0f:', epoch) .. table.concat(pairsOf, ' ')
  redis.call('set', KEYS[1], state, 'px', math.ceil((kept[#kept].ends - now) / 1000))
else
  redis.call('del', KEYS[1])
end
return { granted, ends, math.max(0, left), math.ceil(wait / 1000), now, epoch }
`;

/** Runs the script in Redis; rejects at once when it is away, within the command timeout when it is silent. */
export function createLeaseRunner({ client, ready }: RedisHandle): RunScript {
  const lease = defineScript<number[]>(client, {
    name: 'hardpointLease',
    keys: 1,
    lua: LEASE_SCRIPT,
  });
  return async (id, args) => {
    if (!ready()) throw new Error('Redis is not connected');
    return lease(`hp:limit:${id}`, ...args);
  };
}
