-- suppress: an address gets no more mail, or does again.
-- KEYS 1 suppressions  2 their order  (one slot: a tag of their own)
-- ARGV 1 hash of the address  2 what is kept of it ("": it is released)  3 since µs
-- Returns 1 where it was suppressed before, else 0. Cost O(log n).
local call = redis.call
if ARGV[2] == '' then
  call('ZREM', KEYS[2], ARGV[1])
  return call('HDEL', KEYS[1], ARGV[1])
end
call('ZADD', KEYS[2], ARGV[3], ARGV[1])
return 1 - call('HSET', KEYS[1], ARGV[1], ARGV[2])
