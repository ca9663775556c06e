-- replace_document: Compare-and-set of a long field of a hash: the caller sends the digest of what it has read.
-- KEYS    1 hash
-- ARGV    1 field  2 SHA-1 of the expected value, in hex ("": missing)  3 new value ("": delete the field)
-- Returns 1 if it was written, else 0.
-- Cost    O(length): 0.5 ms for 160 KB
local hash_key = KEYS[1]
local field, expected, value = ARGV[1], ARGV[2], ARGV[3]
local stored = redis.call('HGET', hash_key, field)
if (stored and redis.sha1hex(stored) or '') ~= expected then return 0 end
if value == '' then redis.call('HDEL', hash_key, field) else redis.call('HSET', hash_key, field, value) end
return 1
