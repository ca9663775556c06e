-- acknowledge: a view showed its user everything up to a seq. Never goes down.
-- KEYS 1 acknowledgements  ARGV 1 device NUL view tag  2 seq  3 acknowledgements a user may have
-- Returns 1 where it went up, else 0. Past the bound the lowest goes: to forget one can only cost a push too many.
-- Cost O(1); O(acknowledgements) past the bound.
local call = redis.call
local kept = call('HGET', KEYS[1], ARGV[1])
if kept then
  if tonumber(kept) >= tonumber(ARGV[2]) then return 0 end
elseif call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then
  local all, lowest = call('HGETALL', KEYS[1]), 1
  for i = 3, #all, 2 do
    if tonumber(all[i+1]) < tonumber(all[lowest+1]) then lowest = i end
  end
  call('HDEL', KEYS[1], all[lowest])
end
call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
