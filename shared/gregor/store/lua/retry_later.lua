-- put_off: what was taken waits until a time, in nobody's hands.
-- KEYS 1 stream  2 what waits, by time
-- ARGV 1 group  2 entry  3 until µs  4 the intent as JSON
-- Returns 1. Cost O(log waiting).
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4])
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
return 1
