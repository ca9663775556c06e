-- quarantine: Move an entry that cannot be parsed from the stream to the quarantine, for an operator to inspect.
-- KEYS    1 stream  2 quarantine
-- ARGV    1 group  2 entry  3 about how many entries the quarantine keeps  4 for how long it keeps them, ms
--         5… the entry's fields
-- Returns 1
-- Cost    O(1)
local stream_key, quarantine_key = KEYS[1], KEYS[2]
local group, entry, most, kept_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local added = redis.call('XADD', quarantine_key, 'MAXLEN', '~', most, '*', unpack(ARGV, 5))
-- An entry may name a user, and the deletion of that user does not find it here: it is kept for a limited time.
redis.call('XTRIM', quarantine_key, 'MINID', string.format('%.0f', tonumber(string.match(added, '^%d+')) - kept_ms))
redis.call('PEXPIRE', quarantine_key, kept_ms)
redis.call('XACK', stream_key, group, entry)
redis.call('XDEL', stream_key, entry)
return 1
