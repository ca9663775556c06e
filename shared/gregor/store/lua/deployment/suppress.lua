-- suppress: Suppress an e-mail address, or release it.
-- KEYS    1 suppressions  2 their order by time (one slot: both keys have one hash tag)
-- ARGV    1 hash of the address  2 JSON of the suppression ("": release the address)  3 since µs
-- Returns 1 if the address was suppressed before, else 0.
-- Cost    O(log n)
local suppressions_key, order_key = KEYS[1], KEYS[2]
local hash, suppression, since = ARGV[1], ARGV[2], ARGV[3]
local call = redis.call
if suppression == '' then
  call('ZREM', order_key, hash)
  return call('HDEL', suppressions_key, hash)
end
call('ZADD', order_key, since, hash)
return 1 - call('HSET', suppressions_key, hash, suppression)
