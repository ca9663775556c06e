-- dead_letter_rank: The rank of a position among the dead letters of a partition. Other scripts begin with it.
-- A position is a time and a name. A sorted set has no search for both, and many letters may have one time.
local call, byte = redis.call, string.byte
local FEW_NAMES = 250 -- names that a script reads without `collectgarbage`, as in codec.lua
-- by bytes, as the set is ordered: `<` is by the locale of the server
local function is_below(a, b)
  for i = 1, math.min(#a, #b) do
    if byte(a, i) ~= byte(b, i) then return byte(a, i) < byte(b, i) end
  end
  return #a < #b
end
-- Return how many dead letters are from before a time, or from this time with a name below `name`. O((log n)²)
local function dead_letter_rank(key, at, name)
  local low = call('ZCOUNT', key, '-inf', '(' .. at)
  if name == '' then return low end
  local high = low + call('ZCOUNT', key, at, at)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if is_below(call('ZRANGE', key, middle, middle)[1], name) then low = middle + 1 else high = middle end
  end
  return low
end
