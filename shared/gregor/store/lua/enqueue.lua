-- hand_over: append to a stream that is not full; nothing is ever dropped to make room.
-- KEYS 1 stream
-- ARGV 1 entries that it holds at most  2… the fields of the entry
-- Returns 1, or 0 where it is full. Cost O(1).
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
return 1
