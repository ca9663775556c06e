-- replace_job: Compare-and-set: write a job if its text is still the one that was read.
-- KEYS    1 hash of jobs  2 their order (see create_job)
-- ARGV    1 id  2 expected JSON  3 new JSON  4 the member o or e of the old job in the order  5 the one of the new job
-- Returns 1 if it was written, else 0.
-- Cost    O(log jobs)
local jobs_key, order_key = KEYS[1], KEYS[2]
local id, expected, value, place, new_place = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if redis.call('HGET', jobs_key, id) ~= expected then return 0 end
redis.call('HSET', jobs_key, id, value)
if new_place ~= place then
  redis.call('ZREM', order_key, place)
  redis.call('ZADD', order_key, 0, new_place)
end
return 1
