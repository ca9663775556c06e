-- reset_partition: Start a new generation of a partition, unless this reset or a later one did it already.
-- KEYS    1 generation  2 the last reset: its number, and its spread in seconds
-- ARGV    1 number of this reset  2 spread
-- Returns 1 if a generation was started, else 0.
-- Cost    O(1)
local generation_key, reset_key = KEYS[1], KEYS[2]
local last = string.match(redis.call('GET', reset_key) or '0', '^%d+')
if tonumber(last) >= tonumber(ARGV[1]) then return 0 end
redis.call('INCR', generation_key)
redis.call('SET', reset_key, ARGV[1] .. ' ' .. ARGV[2])
return 1
