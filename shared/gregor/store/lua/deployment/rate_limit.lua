-- rate_limit: Take from a bucket by the generic cell rate algorithm (GCRA); the same sums as `core/rate_limit.py`.
-- KEYS    1 the bucket: when it will be full again µs
-- ARGV    1 now µs  2 the amount to take, as the µs in which it refills  3 the capacity, in the same µs
-- Returns 0 if it was taken, else the µs to wait (nothing was taken).
-- Cost    O(1)
local bucket_key = KEYS[1]
local now_text, amount, capacity = ARGV[1], ARGV[2], ARGV[3]
local now = tonumber(now_text)
local full_at = tonumber(redis.call('GET', bucket_key) or 0)
if full_at < now then full_at = now end
local next_at = full_at + tonumber(amount)
local wait = next_at - tonumber(capacity) - now
if wait > 0 then return wait end
if next_at <= now then return 0 end
-- ten seconds more than until it is full, because the caller's clock may lag behind the server's
local lifetime_ms = math.ceil((next_at - now) / 1000) + 10000
redis.call('SET', bucket_key, string.format('%.0f', next_at), 'PX', string.format('%.0f', lifetime_ms))
return 0
