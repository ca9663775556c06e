-- list_suppressions: Return a page of suppressed addresses, the latest first. Read only.
-- KEYS    1 suppressions  2 their order by time
-- ARGV    1 the most addresses  2 hash of the last address of the page before ("": none)  3 since when it was suppressed µs
-- Returns the JSON of each.
-- Cost    O(log n + page)
local suppressions_key, order_key = KEYS[1], KEYS[2]
local most, after, after_since = ARGV[1], ARGV[2], ARGV[3]
local call, start = redis.call, 0
if after ~= '' then
  local rank = call('ZREVRANK', order_key, after)
  -- the last address may have been released since: then go on by its time
  start = rank and rank + 1 or call('ZCOUNT', order_key, after_since, '+inf')
end
local hashes = call('ZREVRANGE', order_key, start, start + tonumber(most) - 1)
if #hashes == 0 then return {} end
return call('HMGET', suppressions_key, unpack(hashes))
