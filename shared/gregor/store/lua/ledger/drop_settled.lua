-- drop_settled: Remove the deliveries of an item, if it is gone and nothing more will be done with them.
-- KEYS    1 deliveries of the item  2 items with deliveries, by time  3 state  4 agenda  5 dead letters of the partition
-- ARGV    1 item  2 uid
-- Returns 1, or 0 if they stay.
-- Cost    O(deliveries of the item)
local deliveries_key, delivered_items_key, state_key, agenda_key, dead_letters_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4],
  KEYS[5]
local item, uid = ARGV[1], ARGV[2]
local call, sub = redis.call, string.sub
local FINAL_STATES = 'sxvd'  -- sent, cancelled, withdrawn, dead
-- the withdrawal of a live item needs its deliveries, and so does the work after its removal (z)
if sub(call('HGET', state_key, item) or '', 1, 1) == 'L' then return 0 end
if call('ZSCORE', agenda_key, 'z' .. item) then return 0 end
local entries, dead = call('HGETALL', deliveries_key), {}
for i = 1, #entries, 2 do
  local key, state = entries[i], sub(entries[i+1], 1, 1)
  local is_over = string.find(FINAL_STATES, state, 1, true) or (state == 'u' and tonumber(sub(entries[i+1], 6, 22)) == 0)
  -- an event for webhooks (f) reads the outcome
  if not is_over or call('ZSCORE', agenda_key, 'f' .. item .. '\0' .. key) then return 0 end
  if state == 'd' then dead[#dead+1] = uid .. '/' .. item .. '/' .. key end
end
for i = 1, #dead do call('ZREM', dead_letters_key, dead[i]) end
call('ZREM', delivered_items_key, item)
call('ZREM', agenda_key, 'o' .. item) -- the check of overdue deliveries: all are finished
call('UNLINK', deliveries_key)
return 1
