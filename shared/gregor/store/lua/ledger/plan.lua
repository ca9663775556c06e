-- plan: Enter deliveries that are not in the ledger yet; the first entry under a key wins. Nothing is entered for a
-- deleted user.
-- KEYS    1 deliveries of the item  2 items with deliveries, by time  3 withdrawals of the user  4 state  5 agenda
--         6 due users of the partition
-- ARGV    1 now µs  2 lifetime ms  3 item  4 state letter  5 when the agenda checks for overdue deliveries µs
--         6 the number of items with deliveries above which old ones are to be bounded  7 after how many new items again
--         8… key and story of each delivery
-- Returns the keys that were new, and an empty one if the deliveries of old items are to be bounded now.
-- Cost    O(keys)
local deliveries_key, delivered_items_key, withdrawals_key, state_key, agenda_key, due_key = KEYS[1], KEYS[2], KEYS[3],
  KEYS[4], KEYS[5], KEYS[6]
local now, lifetime_ms, item, state, check_at, most, step = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5],
  tonumber(ARGV[6]), tonumber(ARGV[7])
local call, new_keys = redis.call, {}
if call('EXISTS', state_key) == 0 then return new_keys end
for i = 8, #ARGV, 2 do
  -- an entry: state c1, attempts as 4 digits, lease until as 17 digits, story
  if call('HSETNX', deliveries_key, ARGV[i], state .. '0000' .. '00000000000000000' .. ARGV[i+1]) == 1 then
    new_keys[#new_keys+1] = ARGV[i]
    if state == 'p' and string.sub(ARGV[i], 1, 9) == 'withdraw/' then
      -- n/device/channel/item: when it was planned
      call('HSET', withdrawals_key, string.sub(ARGV[i], 10) .. '/' .. item, now)
      call('PEXPIRE', withdrawals_key, lifetime_ms)
    end
  end
end
if #new_keys > 0 then
  call('PEXPIRE', deliveries_key, lifetime_ms)
  local is_new_item = call('ZADD', delivered_items_key, now, item) == 1
  call('ZREMRANGEBYSCORE', delivered_items_key, '-inf', string.format('%.0f', tonumber(now) - tonumber(lifetime_ms) * 1000))
  call('PEXPIRE', delivered_items_key, lifetime_ms)
  local count = call('ZCARD', delivered_items_key)
  if is_new_item and count > most and count % step == 0 then new_keys[#new_keys+1] = '' end
  if state == 'p' and call('ZADD', agenda_key, 'NX', check_at, 'o' .. item) == 1 then
    -- the uid: the keys are "<prefix>h:<uid>" and "<prefix>due"
    call('ZADD', due_key, 'LT', check_at, string.sub(state_key, #due_key))
  end
end
return new_keys
