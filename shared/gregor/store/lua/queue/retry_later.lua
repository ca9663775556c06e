-- retry_later: Move a claimed entry from the stream to the set of waiting intents.
-- KEYS    1 stream  2 waiting intents, by time
-- ARGV    1 group  2 entry  3 until µs  4 the intent as JSON
-- Returns 1
-- Cost    O(log waiting)
local stream_key, waiting_key = KEYS[1], KEYS[2]
local group, entry, until_, intent = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
redis.call('ZADD', waiting_key, until_, intent)
redis.call('XACK', stream_key, group, entry)
redis.call('XDEL', stream_key, entry)
return 1
