-- delete_keys: Delete keys, and their names in a list, in one step. What is written afterwards belongs to a new user
-- and stays.
-- KEYS    1 the list (a sorted set)  2… the keys
-- ARGV    the names in the list
-- Returns nothing
-- Cost    O(keys and their size)
redis.call('ZREM', KEYS[1], unpack(ARGV))
redis.call('DEL', unpack(KEYS, 2))
