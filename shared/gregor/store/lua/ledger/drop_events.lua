-- drop_events: Remove completed webhook events of an item. An event that changed since it was read stays.
-- KEYS    1 deliveries of the item  2 dead letters of the partition
-- ARGV    1 uid  2 item  3… of each event: key, entry as read
-- Returns the number of events that were removed.
-- Cost    O(events * log(dead letters))
local deliveries_key, dead_letters_key = KEYS[1], KEYS[2]
local uid, item = ARGV[1], ARGV[2]
local call, removed = redis.call, 0
for i = 3, #ARGV, 2 do
  local key, entry = ARGV[i], ARGV[i+1]
  if call('HGET', deliveries_key, key) == entry then
    call('HDEL', deliveries_key, key)
    if string.sub(entry, 1, 1) == 'd' then call('ZREM', dead_letters_key, uid .. '/' .. item .. '/' .. key) end
    removed = removed + 1
  end
end
return removed
