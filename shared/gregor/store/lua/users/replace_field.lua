-- replace_field: Compare-and-set: write a field of a hash if it still has the value that was read.
-- KEYS    1 hash
-- ARGV    1 field  2 expected value ("": missing)  3 new value ("": delete the field)
-- Returns 1 if it was written, else 0.
-- Cost    O(1)
local hash_key = KEYS[1]
local field, expected, value = ARGV[1], ARGV[2], ARGV[3]
if (redis.call('HGET', hash_key, field) or '') ~= expected then return 0 end
if value == '' then redis.call('HDEL', hash_key, field) else redis.call('HSET', hash_key, field, value) end
return 1
