-- ledger_move: from one of some states to another, without a claim (a cancellation, a withdrawal).
-- KEYS 1 deliveries of the item  2 withdrawals of the user
-- ARGV 1 key  2 letters of the states it may be in  3 new state letter  4 story ("" as it is)
-- Returns 1, or 0 where it is in another state. Cost O(1).
local call, sub = redis.call, string.sub
local entry = call('HGET', KEYS[1], ARGV[1])
if not entry or not string.find(ARGV[2], sub(entry, 1, 1), 1, true) then return 0 end
call('HSET', KEYS[1], ARGV[1], ARGV[3] .. sub(entry, 2, 5) .. '00000000000000000' .. (ARGV[4] ~= '' and ARGV[4] or sub(entry, 23)))
if sub(ARGV[1], 1, 9) == 'withdraw/' and string.find('sxvd', ARGV[3], 1, true) then
  call('HDEL', KEYS[2], sub(ARGV[1], 10) .. string.match(KEYS[1], '/[^/]*$'))
end
return 1
