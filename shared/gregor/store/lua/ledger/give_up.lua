-- give_up: Make deliveries of an item dead letters. A delivery that changed since it was read is left as it is.
-- KEYS    1 deliveries of the item  2 dead letters of the partition
-- ARGV    1 now µs  2 lifetime ms  3 uid and item, each with a slash  4… of each delivery: key, entry as read, new entry
-- Returns the keys that changed.
-- Cost    O(keys)
local deliveries_key, dead_letters_key = KEYS[1], KEYS[2]
local now, lifetime_ms, prefix = ARGV[1], ARGV[2], ARGV[3]
local call, changed = redis.call, {}
for i = 4, #ARGV, 3 do
  if call('HGET', deliveries_key, ARGV[i]) == ARGV[i+1] then
    call('HSET', deliveries_key, ARGV[i], ARGV[i+2])
    call('ZADD', dead_letters_key, now, prefix .. ARGV[i])
    changed[#changed+1] = ARGV[i]
  end
end
if #changed > 0 then
  call('ZREMRANGEBYSCORE', dead_letters_key, '-inf', string.format('%.0f', tonumber(now) - tonumber(lifetime_ms) * 1000))
  call('PEXPIRE', dead_letters_key, lifetime_ms)
end
return changed
