-- acknowledge: a view showed its user everything up to a seq. Never goes down.
-- KEYS 1 acknowledgements  2 the newest of them, with their moments; where somebody wants to hear of it: 3 agenda
--      4 due users of the partition
-- ARGV 1 device NUL view's limits  2 seq  3 views a user may have  4 now µs  5 how many are kept with their moment
--      6 their lifetime ms  7 uid
-- Returns 1 where it went up, else 0. Past the bound of views the lowest goes: to forget one can only cost a push too
-- many. With KEYS 3 and 4 the agenda says which seqs were shown: entry k, device NUL limits NUL from NUL to.
-- Cost O(1); O(views) past the bound.
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
if call('RPUSH', KEYS[2], (kept or '0') .. ' ' .. ARGV[2] .. ' ' .. ARGV[4] .. ' ' .. ARGV[1]) > tonumber(ARGV[5]) then
  call('LPOP', KEYS[2])
end
call('PEXPIRE', KEYS[2], ARGV[6])
if KEYS[3] then
  call('ZADD', KEYS[3], ARGV[4], 'k' .. ARGV[1] .. '\0' .. (kept or '0') .. '\0' .. ARGV[2])
  call('ZADD', KEYS[4], 'LT', ARGV[4], ARGV[7])
end
return 1
