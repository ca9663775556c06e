-- ledger_replay: what is dead is planned anew, and the agenda asks now what became of it: by that it is handed over.
-- KEYS 1 deliveries of the item  2 dead letters of the partition  3 items with deliveries, by time  4 withdrawals of the
--      user  5 agenda  6 due users of the partition
-- ARGV 1 key  2 the entry as it was read  3 as it shall be  4 its name among the dead letters  5 now µs  6 lifetime ms
--      7 uid  8 item  9 when it was planned first µs
-- Returns 1, or 0 where it is no dead letter, or another one than was read. Cost O(log n).
local call = redis.call
if not call('ZSCORE', KEYS[2], ARGV[4]) or call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
call('ZREM', KEYS[2], ARGV[4])
call('HSET', KEYS[1], ARGV[1], ARGV[3])
call('PEXPIRE', KEYS[1], ARGV[6])
call('ZADD', KEYS[3], ARGV[5], ARGV[8])
call('PEXPIRE', KEYS[3], ARGV[6])
if string.sub(ARGV[1], 1, 9) == 'withdraw/' then
  call('HSET', KEYS[4], string.sub(ARGV[1], 10) .. '/' .. ARGV[8], ARGV[9])
  call('PEXPIRE', KEYS[4], ARGV[6])
end
-- whatever the agenda asked of the item before: an entry that has moved outlives the act that is under way
call('ZADD', KEYS[5], ARGV[5], 'o' .. ARGV[8])
call('ZADD', KEYS[6], 'LT', ARGV[5], ARGV[7])
return 1
