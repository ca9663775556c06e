-- dead_page: some dead letters of a partition, the latest first. Read only.
-- KEYS 1 dead letters   ARGV 1 at most so many  2 not after µs  3 of that µs only those whose name is below this one
--      4 not at or before µs  5 what their names end with ("" all)
-- Returns name, time µs of each. Cost O(log n + looked at): with an end those that end otherwise, too.
local call, sub, byte, out = redis.call, string.sub, string.byte, {}
local at_once = ARGV[5] == '' and tonumber(ARGV[1]) or 100
-- by bytes, as the set is ordered: `<` is by the locale of the server
local function is_below(a, b)
  for i = 1, math.min(#a, #b) do
    if byte(a, i) ~= byte(b, i) then return byte(a, i) < byte(b, i) end
  end
  return #a < #b
end
local start, looked = 0, {}
repeat
  looked = call('ZREVRANGEBYSCORE', KEYS[1], ARGV[2], '(' .. ARGV[4], 'WITHSCORES', 'LIMIT', start, at_once)
  start = start + at_once
  for i = 1, #looked, 2 do
    local name, at = looked[i], looked[i+1]
    if (tonumber(at) ~= tonumber(ARGV[2]) or is_below(name, ARGV[3])) and (ARGV[5] == '' or sub(name, -#ARGV[5]) == ARGV[5]) then
      out[#out+1] = name
      out[#out+1] = at
      if #out == 2 * ARGV[1] then return out end
    end
  end
until #looked < 2 * at_once
return out
