-- register_process: Record that a process is alive, and forget those whose registration has ended.
-- KEYS    1 processes by the end of their registration
-- ARGV    1 process  2 end of its registration µs  3 now µs  4 lifetime of the key s
-- Returns 1
-- Cost    O(log processes)
local processes_key = KEYS[1]
local process, until_, now, lifetime_s = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
redis.call('ZADD', processes_key, until_, process)
redis.call('ZREMRANGEBYSCORE', processes_key, '-inf', now)
redis.call('EXPIRE', processes_key, lifetime_s)
return 1
