-- move: Move a delivery from one of some states to another without a claim (a cancellation, a withdrawal).
-- KEYS    1 deliveries of the item  2 withdrawals of the user
-- ARGV    1 key  2 letters of the states it may be in  3 new state letter  4 story ("": keep the stored one)
-- Returns 1, or 0 if the delivery is in another state.
-- Cost    O(1)
local deliveries_key, withdrawals_key = KEYS[1], KEYS[2]
local key, allowed_states, state, story = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local call, sub = redis.call, string.sub
local FINAL_STATES = 'sxvd'  -- sent, cancelled, withdrawn, dead
local entry = call('HGET', deliveries_key, key)
if entry and not string.find('pwcsruxvd', sub(entry, 1, 1), 1, true) then
  return {err = 'UNKNOWNFORMAT delivery ' .. string.byte(entry)}
end
if not entry or not string.find(allowed_states, sub(entry, 1, 1), 1, true) then return 0 end
call('HSET', deliveries_key, key, state .. sub(entry, 2, 5) .. '00000000000000000' .. (story ~= '' and story or sub(entry,
  23)))
if sub(key, 1, 9) == 'withdraw/' and string.find(FINAL_STATES, state, 1, true) then
  local target = sub(key, 10) .. string.match(deliveries_key, '/[^/]*$')
  call('HDEL', withdrawals_key, target, 'c/' .. target)
end
return 1
