-- delayed_sizes: Measure the delayed messages of a user, without reading them.
-- KEYS    1 delayed messages
-- ARGV    none
-- Returns id, bytes, ... of each
-- Cost    O(delayed messages), at most 1,000 by their bound: 0.9 ms
local delayed_key, sizes = KEYS[1], {}
for _, id in ipairs(redis.call('HKEYS', delayed_key)) do
  sizes[#sizes + 1] = id
  sizes[#sizes + 1] = redis.call('HSTRLEN', delayed_key, id)
end
return sizes
