-- create_job: Store a new job, unless there is one with this id. Its number is larger than all earlier ones, and not
-- below the time, because a failover may lose the last numbers. Jobs that ended long ago are deleted first.
-- The order of the jobs has three members for each of them, all with score 0, so that they are sorted as strings. Times and
-- numbers have 16 digits: n<number><id> for each job, o<number><id> while it is open, e<end, µs><number><id> after that.
-- The reference is `jobs_to_delete` in gregor/reference/jobs.py.
-- KEYS    1 hash of jobs  2 their order
-- ARGV    1 id  2 now, µs  3 JSON of the job without its opening brace and its number  4 most open jobs  5 most jobs
--         6 an ended job is deleted if it ended at this time, µs, or before  7 the same, if there are too many jobs
-- Returns {1 if the job is new, else 0, JSON of the stored job}, or the limit that is reached: {"open"} or {"stored"}
-- Cost    O(log jobs + deleted jobs)
local jobs_key, order_key = KEYS[1], KEYS[2]
local id, now, rest, most_open, most_jobs = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local kept_since, least_kept_since = ARGV[6], ARGV[7]
local stored = redis.call('HGET', jobs_key, id)
if stored then return {0, stored} end
if redis.call('ZLEXCOUNT', order_key, '[o', '(p') >= most_open then return {'open'} end

local surplus = redis.call('ZLEXCOUNT', order_key, '[n', '(o') + 1 - most_jobs
local function digits(number) return string.format('%016.0f', number) end
local function ended_until(at) return redis.call('ZRANGEBYLEX', order_key, '[e', '(e' .. digits(tonumber(at) + 1)) end
local deleted = ended_until(kept_since)
if #deleted < surplus then
  local more = ended_until(least_kept_since)
  if #more < surplus then return {'stored'} end
  for i = #deleted + 1, surplus do deleted[i] = more[i] end
end
for i = 1, #deleted do
  local old_number, old_id = string.sub(deleted[i], 18, 33), string.sub(deleted[i], 34)
  redis.call('HDEL', jobs_key, old_id)
  redis.call('ZREM', order_key, deleted[i], 'n' .. old_number .. old_id)
end

local number = digits(math.max(tonumber(redis.call('HGET', jobs_key, '#') or '0') + 1, now))
local job = '{"number":' .. string.format('%.0f', number) .. ',' .. rest
redis.call('HSET', jobs_key, '#', number, id, job)
redis.call('ZADD', order_key, 0, 'n' .. number .. id, 0, 'o' .. number .. id)
return {1, job}
