-- rate_limit: Take from all buckets or none, by the generic cell rate algorithm (GCRA); the same sums as
-- `core/rate_limit.py`.
-- KEYS    the buckets, all of one owner: when each will be full again µs. If that is a time of the server, the server's time
--         of the write follows in digits that do not change the number: "1764835200500000.001764835200000000".
-- ARGV    1 now µs ("": the time of the server); then for each bucket: the amount to take, as the µs in which it refills, and
--         the capacity in the same µs; a negative amount is given back
-- Returns the µs until each bucket is full if it was taken, else the longest µs to wait (nothing was taken).
-- Cost    O(buckets)
local now, written = tonumber(ARGV[1]), ''
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
  written = string.format('.00%.0f', now)
end
local next_at, longest_wait = {}, 0
for i = 1, #KEYS do
  local stored = redis.call('GET', KEYS[i])
  local full_at = tonumber(stored or 0)
  local written_at = stored and written ~= '' and tonumber(string.match(stored, '%.00(%d+)$')) or 0
  -- the clock went back, for example because another server is the primary now: the bucket has waited for nothing yet
  if written_at > now then full_at = full_at - written_at + now end
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
    redis.call('SET', KEYS[i], string.format('%.0f', next_at[i]) .. written, 'PX', string.format('%.0f', lifetime_ms))
  elseif tonumber(ARGV[2 * i]) < 0 then redis.call('DEL', KEYS[i])
  end
end
return used
