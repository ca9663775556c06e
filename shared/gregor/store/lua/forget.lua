-- forget: drop keys, and what names them in a list, in one step: what comes in later is of a new life, and stays whole.
-- KEYS 1 the list  2… what to drop
-- ARGV names in the list
-- Returns nothing. Cost O(keys, and what they hold).
redis.call('ZREM', KEYS[1], unpack(ARGV))
redis.call('DEL', unpack(KEYS, 2))
