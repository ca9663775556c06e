-- set_aside: an entry that nobody can read leaves the stream, and is kept for people to look at.
-- KEYS 1 stream  2 what was set aside
-- ARGV 1 group  2 entry  3 at most so many are kept  4… its fields
-- Returns 1. Cost O(1).
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', unpack(ARGV, 4))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
return 1
