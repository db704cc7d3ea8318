import type { RunScript } from './lease.ts';
import type { RedisHandle } from './redis.ts';

/**
 * One atomic step in Redis for one limit. Its state is a string of "ends tokens" pairs, one a cell of
 * `width` ms: so many tokens count against the limit until `ends`, the last moment in the cell. Time
 * is the server's, rounded to the side that counts longer. Steps: forget what has left the window,
 * settle the lease that the process gives back, grant the next one, say when more comes.
 *
 * KEYS[1] the limit. ARGV: 1 window, 2 life of a lease, 3 width (ms); 4 limit; 5 least and 6 most
 * tokens wanted, 7 tokens that requests wait for; 8 tokens that must be free before a refused process
 * shall ask again; 9 the latest time (ms) that this server can show unless its clock was moved;
 * 10 end and 11 tokens of the lease given back; then of each part spent: tokens, ms since the last.
 * Answers granted, its end, left, ms until more, server time, 1 when the state was lost; granted is
 * -1, and nothing changed, when the clock was moved.
 */
export const LEASE_SCRIPT = `
local arg = {}
for i = 1, #ARGV do arg[i] = tonumber(ARGV[i]) end
local window, life, width, limit, least, most, waiting, batch = unpack(arg, 1, 8)
local latest, leaseEnds, leased = unpack(arg, 9, 11)

local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now > latest then return { -1, 0, 0, 0, now, 0 } end

local cells = {}
local function count(ends, tokens)
  local cell = math.floor(ends / width)
  local held = cells[cell] or { ends = 0, tokens = 0 }
  held.ends = math.max(held.ends, ends)
  held.tokens = held.tokens + tokens
  cells[cell] = held
end

-- No honest end lies so far ahead: where one does, the clock was set back.
local furthest = now + 2 * window + life
for ends, tokens in string.gmatch(redis.call('get', KEYS[1]) or '', '(%d+) (%d+)') do
  ends = math.min(tonumber(ends), furthest)
  if ends > now then count(ends, tonumber(tokens)) end
end

local lost = 0
if leased > 0 then
  local held = cells[math.floor(leaseEnds / width)]
  if held and held.tokens >= leased then
    held.tokens = held.tokens - leased
  elseif leaseEnds > now then
    lost = 1
  end
end
for i = 12, #arg, 2 do
  local tokens, age = arg[i], arg[i + 1]
  if age < window then count(now + 1 + window - age, tokens) end
end

local used = 0
for _, held in pairs(cells) do used = used + held.tokens end
local free, ends = limit - used, now + 1 + life + window
local granted = 0
if free >= least then granted = math.min(free, math.max(waiting, math.min(most, math.ceil(free / 2)))) end
if granted > 0 then count(ends, granted) end
local left = free - granted

local kept = {}
for _, held in pairs(cells) do if held.tokens > 0 then kept[#kept + 1] = held end end
table.sort(kept, function(a, b) return a.ends < b.ends end)
local enough = math.min(limit, left + 1)
if left < least then enough = math.max(least, math.min(batch, limit)) end
local wait, coming, state = 0, left, {}
for i, held in ipairs(kept) do
  if coming < enough then wait = held.ends - now end
  coming = coming + held.tokens
  state[i] = held.ends .. ' ' .. held.tokens
end
if #kept > 0 then
  redis.call('set', KEYS[1], table.concat(state, ' '), 'px', kept[#kept].ends - now)
else
  redis.call('del', KEYS[1])
end
return { granted, ends, math.max(0, left), wait, now, lost }
`;

interface LeaseCommand {
  hardpointLease(key: string, ...args: number[]): Promise<number[]>;
}

/** Runs the script in Redis; rejects at once when it is away, within the command timeout when it is silent. */
export function createLeaseRunner({ client, ready }: RedisHandle): RunScript {
  client.defineCommand('hardpointLease', { numberOfKeys: 1, lua: LEASE_SCRIPT });
  return async (id, args) => {
    if (!ready()) throw new Error('Redis is not connected');
    return (client as unknown as LeaseCommand).hardpointLease(`hp:limit:${id}`, ...args);
  };
}
