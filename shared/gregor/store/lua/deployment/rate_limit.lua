-- rate_limit: Take from all buckets or none, by the generic cell rate algorithm (GCRA); the same sums as
-- `core/rate_limit.py`.
-- KEYS    the buckets, all of one owner: when each will be full again µs
-- ARGV    1 now µs; then for each bucket: the amount to take, as the µs in which it refills, and the capacity in the same µs;
--         a negative amount is given back
-- Returns the µs until each bucket is full if it was taken, else the longest µs to wait (nothing was taken).
-- Cost    O(buckets)
local now_text = ARGV[1]
local now = tonumber(now_text)
local next_at, longest_wait = {}, 0
for i = 1, #KEYS do
  local full_at = tonumber(redis.call('GET', KEYS[i]) or 0)
  if full_at < now then full_at = now end
  next_at[i] = full_at + tonumber(ARGV[2 * i])
  local wait = next_at[i] - tonumber(ARGV[2 * i + 1]) - now
  if wait > longest_wait then longest_wait = wait end
end
if longest_wait > 0 then return longest_wait end
local used = {}
for i = 1, #KEYS do
  used[i] = next_at[i] - now
  if next_at[i] > now then
    -- ten seconds more than until it is full, because the caller's clock may lag behind the server's
    local lifetime_ms = math.ceil((next_at[i] - now) / 1000) + 10000
    redis.call('SET', KEYS[i], string.format('%.0f', next_at[i]), 'PX', string.format('%.0f', lifetime_ms))
  elseif tonumber(ARGV[2 * i]) < 0 then redis.call('DEL', KEYS[i])
  end
end
return used
