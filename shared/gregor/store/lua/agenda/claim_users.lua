-- claim_users: Lease the users of one partition whose work is due. No other scheduler gets them until the lease ends.
-- KEYS    1 due users of the partition, by time
-- ARGV    1 now µs  2 end of the lease µs  3 the most users to lease
-- Returns the uids, the longest due first.
-- Cost    O(claimed × log due)
local due_key = KEYS[1]
local now, lease_until, most = ARGV[1], ARGV[2], ARGV[3]
local uids = redis.call('ZRANGEBYSCORE', due_key, '-inf', now, 'LIMIT', 0, most)
for i = 1, #uids do redis.call('ZADD', due_key, 'XX', lease_until, uids[i]) end
return uids
