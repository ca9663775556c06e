-- delete_user: Delete what is stored of a user, and its due time, in one step. What is written afterwards belongs to a
-- new user and stays.
-- KEYS    1 due users of the partition  2 registrations  3… the other keys
-- ARGV    1 uid
-- Returns the registrations, device and JSON in turn: the owners of their push tokens must be released
-- Cost    O(keys and their size)
local due_key, registrations_key = KEYS[1], KEYS[2]
local registrations = redis.call('HGETALL', registrations_key)
redis.call('ZREM', due_key, ARGV[1])
redis.call('DEL', unpack(KEYS, 2))
return registrations
