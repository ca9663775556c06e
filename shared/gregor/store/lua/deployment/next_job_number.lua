-- next_job_number: Return a number that is larger than each before, and not below the time: a failover may lose some.
-- KEYS    1 hash of jobs
-- ARGV    1 now, µs
-- Returns the number, as a string.
-- Cost    O(1)
local jobs_key, now = KEYS[1], tonumber(ARGV[1])
local last = tonumber(redis.call('HGET', jobs_key, '#') or '0')
local number = string.format('%.0f', math.max(last + 1, now))
redis.call('HSET', jobs_key, '#', number)
return number
