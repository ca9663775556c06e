-- enqueue: Append an entry to a stream unless the stream is full; entries are never dropped to make room.
-- KEYS    1 stream
-- ARGV    1 the most entries of the stream  2… the fields of the entry
-- Returns 1, or 0 if the stream is full.
-- Cost    O(1)
local stream_key = KEYS[1]
local most = ARGV[1]
if redis.call('XLEN', stream_key) >= tonumber(most) then return 0 end
redis.call('XADD', stream_key, '*', unpack(ARGV, 2))
return 1
