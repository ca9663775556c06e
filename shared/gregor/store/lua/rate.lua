-- rate: take from a bucket, by the generic cell rate algorithm (GCRA); the same sums as `core/rates.py`.
-- KEYS 1 the bucket: when it will be full again, µs
-- ARGV 1 now µs  2 what is taken, as the µs in which it comes back  3 what the bucket holds, in the same µs
-- Returns 0 where it was taken, else the µs to wait (nothing was taken). Cost O(1).
local now = tonumber(ARGV[1])
local full_at = tonumber(redis.call('GET', KEYS[1]) or 0)
if full_at < now then full_at = now end
local next_at = full_at + tonumber(ARGV[2])
local wait = next_at - tonumber(ARGV[3]) - now
if wait > 0 then return wait end
if next_at <= now then return 0 end
-- ten seconds more than until it is full: the clock that is `now` may lag behind the server's
local life_ms = math.ceil((next_at - now) / 1000) + 10000
redis.call('SET', KEYS[1], string.format('%.0f', next_at), 'PX', string.format('%.0f', life_ms))
return 0
