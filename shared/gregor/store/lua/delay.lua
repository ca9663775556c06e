-- delay: keep a message until its time. The first content under an id wins (semantics.md L2).
-- KEYS 1 delayed messages  2 agenda  3 due users of the partition
-- ARGV 1 id  2 document  3 not before µs  4 uid  5 delayed messages a user may have
-- Returns the document that is kept, or "" where there is no room (nothing was changed). Cost O(log agenda).
local call = redis.call
local kept = call('HGET', KEYS[1], ARGV[1])
if kept then return kept end
if call('HLEN', KEYS[1]) >= tonumber(ARGV[5]) then return '' end
call('HSET', KEYS[1], ARGV[1], ARGV[2])
call('ZADD', KEYS[2], ARGV[3], 'd' .. ARGV[1])
call('ZADD', KEYS[3], 'LT', ARGV[3], ARGV[4])
return ARGV[2]
