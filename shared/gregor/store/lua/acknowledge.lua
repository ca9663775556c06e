-- acknowledge: a view showed its user everything up to a seq. Never goes down.
-- KEYS 1 acknowledgements; where somebody wants to hear of it: 2 agenda  3 due users of the partition
-- ARGV 1 device NUL view's limits  2 seq  3 acknowledgements a user may have  4 now µs  5 uid
-- Returns 1 where it went up, else 0. Past the bound the lowest goes: to forget one can only cost a push too many.
-- With KEYS 2 and 3 the agenda says which seqs were shown: entry k, device NUL limits NUL from NUL to.
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
if KEYS[2] then
  call('ZADD', KEYS[2], ARGV[4], 'k' .. ARGV[1] .. '\0' .. (kept or '0') .. '\0' .. ARGV[2])
  call('ZADD', KEYS[3], 'LT', ARGV[4], ARGV[5])
end
return 1
