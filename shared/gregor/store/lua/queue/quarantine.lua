-- quarantine: Move an entry that cannot be parsed from the stream to the quarantine, for an operator to inspect.
-- KEYS    1 stream  2 quarantine
-- ARGV    1 group  2 entry  3 about how many entries the quarantine keeps  4… the entry's fields
-- Returns 1
-- Cost    O(1)
local stream_key, quarantine_key = KEYS[1], KEYS[2]
local group, entry, most = ARGV[1], ARGV[2], ARGV[3]
redis.call('XADD', quarantine_key, 'MAXLEN', '~', most, '*', unpack(ARGV, 4))
redis.call('XACK', stream_key, group, entry)
redis.call('XDEL', stream_key, entry)
return 1
