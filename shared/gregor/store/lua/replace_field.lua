-- replace_field: write a field of a hash if nobody else did since it was read.
-- KEYS 1 hash  ARGV 1 field  2 the value that was read ("" there was none)  3 the new value ("" take it away)
-- Returns 1 where it was written, else 0. Cost O(1).
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
return 1
