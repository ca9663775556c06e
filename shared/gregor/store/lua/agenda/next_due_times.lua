-- next_due_times: Return when the first user of each partition is due. Read only.
-- KEYS    the due users of each partition, a sorted set each
-- ARGV    none
-- Returns the times (µs), "" for a partition in which no user is due.
-- Cost    O(partitions), 0.7 µs each
local call, times = redis.call, {}
for i = 1, #KEYS do times[i] = call('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')[2] or '' end
return times
