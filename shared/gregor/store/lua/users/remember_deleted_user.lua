-- remember_deleted_user: Remember the hash of a deleted user for a while: the delivery queues are purged by it.
-- KEYS    1 deleted users, by time
-- ARGV    1 now µs  2 hash of the uid  3 hashes up to this time (µs) are removed  4 ms until all expire
-- Returns nothing
-- Cost    O(log n)
local deleted_users_key = KEYS[1]
local now, hash, expired_before, lifetime_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local call = redis.call
call('ZADD', deleted_users_key, now, hash)
call('ZREMRANGEBYSCORE', deleted_users_key, '-inf', expired_before)
call('PEXPIRE', deleted_users_key, lifetime_ms)
