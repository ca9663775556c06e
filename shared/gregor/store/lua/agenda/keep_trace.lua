-- keep_trace: Store the trace of the message that creates items of a user, for their due work.
-- KEYS    1 traces of the user's items
-- ARGV    1 packed trace context  2 lifetime s  3 the most items  then: item ids
-- Returns nothing
-- Cost    O(items)
local key, trace = KEYS[1], ARGV[1]
-- A user with too many sampled items loses the older traces: they help operators, and are not part of the state.
if redis.call('HLEN', key) + #ARGV - 3 > tonumber(ARGV[3]) then redis.call('DEL', key) end
for i = 4, #ARGV do redis.call('HSET', key, ARGV[i], trace) end
redis.call('EXPIRE', key, ARGV[2])
