-- suppressions: a page of the addresses that get no mail, the latest first. Read only.
-- KEYS 1 suppressions  2 their order
-- ARGV 1 at most so many  2 hash of the last of the page before ("" none)  3 since when that was µs
-- Returns what is kept of each. Cost O(log n + page).
local call, start = redis.call, 0
if ARGV[2] ~= '' then
  local rank = call('ZREVRANK', KEYS[2], ARGV[2])
  -- one that was released meanwhile leaves its place to those after it
  start = rank and rank + 1 or call('ZCOUNT', KEYS[2], ARGV[3], '+inf')
end
local names = call('ZREVRANGE', KEYS[2], start, start + tonumber(ARGV[1]) - 1)
if #names == 0 then return {} end
return call('HMGET', KEYS[1], unpack(names))
