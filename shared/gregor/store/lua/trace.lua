-- trace: remember for a while that a user was forgotten, so that the queues are swept of it.
-- KEYS 1 traces of the forgotten
-- ARGV 1 now µs  2 the trace  3 traces up to then µs go  4 ms until all go
-- Returns nothing. Cost O(log n).
local call = redis.call
call('ZADD', KEYS[1], ARGV[1], ARGV[2])
call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
call('PEXPIRE', KEYS[1], ARGV[4])
