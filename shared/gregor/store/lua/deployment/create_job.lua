-- create_job: Store a new job, unless there is one with this id. Its number is larger than each before, and not below the
-- time: a failover may lose some.
-- KEYS    1 hash of jobs
-- ARGV    1 id  2 now, µs  3 JSON of the job without its opening brace and its number
-- Returns {1 if the job is new, else 0, JSON of the stored job}
-- Cost    O(1)
local jobs_key = KEYS[1]
local id, now, rest = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local stored = redis.call('HGET', jobs_key, id)
if stored then return {0, stored} end
local last = tonumber(redis.call('HGET', jobs_key, '#') or '0')
local number = string.format('%.0f', math.max(last + 1, now))
local job = '{"number":' .. number .. ',' .. rest
redis.call('HSET', jobs_key, '#', number, id, job)
return {1, job}
