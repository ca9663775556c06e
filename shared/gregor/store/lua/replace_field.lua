-- replace_field: write a field of a hash if nobody else did since it was read.
-- KEYS 1 hash  ARGV 1 field  2 the value that was read  3 the new value
-- Returns 1 where it was written, else 0. Cost O(1).
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
