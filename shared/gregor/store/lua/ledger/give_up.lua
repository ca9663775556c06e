-- give_up: Make webhook events of an item dead letters. An event that changed since it was read is left as it is. The item
--         leaves the items with webhook events if all its events are over.
-- KEYS    1 deliveries of the item  2 dead letters of the partition  3 items with webhook events, by time
-- ARGV    1 now µs  2 lifetime ms  3 uid  4 item  5… of each event: key, entry as read, new entry
-- Returns the keys that changed.
-- Cost    O(deliveries of the item)
local deliveries_key, dead_letters_key, event_items_key = KEYS[1], KEYS[2], KEYS[3]
local now, lifetime_ms, uid, item = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local call, changed = redis.call, {}
local FINAL_STATES = 'sxvd'  -- sent, cancelled, withdrawn, dead
local MOST_EXPIRED = 100  -- expired dead letters that are removed with a new one
for i = 5, #ARGV, 3 do
  if call('HGET', deliveries_key, ARGV[i]) == ARGV[i+1] then
    call('HSET', deliveries_key, ARGV[i], ARGV[i+2])
    call('ZADD', dead_letters_key, now, uid .. '/' .. item .. '/' .. ARGV[i])
    changed[#changed+1] = ARGV[i]
  end
end
if #changed > 0 then
  -- a few at a time: thousands may have expired since the last dead letter, and reads leave them out
  local expired = call('ZCOUNT', dead_letters_key, '-inf', string.format('%.0f',
    tonumber(now) - tonumber(lifetime_ms) * 1000))
  if expired > 0 then call('ZREMRANGEBYRANK', dead_letters_key, 0, math.min(expired, MOST_EXPIRED) - 1) end
  call('PEXPIRE', dead_letters_key, lifetime_ms)
end
local entries = call('HGETALL', deliveries_key)
for i = 1, #entries, 2 do
  local state = string.sub(entries[i+1], 1, 1)
  local is_over = string.find(FINAL_STATES, state, 1, true)
    or (state == 'u' and tonumber(string.sub(entries[i+1], 6, 22)) == 0)
  if string.sub(entries[i], 1, 6) == 'event/' and not is_over then return changed end
end
call('ZREM', event_items_key, item)
return changed
