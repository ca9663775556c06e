-- claim: lease users of one partition whose work is due; nobody else gets them until the lease is over or settled.
-- KEYS 1 due users of the partition
-- ARGV 1 now µs  2 lease until µs  3 at most so many
-- Returns the uids, the longest due first. Cost O(claimed × log due).
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for i = 1, #due do redis.call('ZADD', KEYS[1], 'XX', ARGV[2], due[i]) end
return due
