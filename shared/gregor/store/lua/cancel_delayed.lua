-- cancel_delayed: take back a message that still waits for its time.
-- KEYS 1 delayed messages  2 agenda   ARGV 1 id
-- Returns 1 where it waited, else 0. Cost O(log agenda).
redis.call('ZREM', KEYS[2], 'd' .. ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
