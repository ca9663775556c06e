-- record_outcome: Store the outcome of a claim, or more of its story (state c), if the caller still holds the claim.
-- KEYS    1 deliveries of the item  2 places in use of the user  3 withdrawals of the user  4 agenda  5 due users of the
--         partition  6 dead letters of the partition  7 state
-- ARGV    1 key  2 attempt n of the claim  3 new state letter  4 attempts to record  5 story  6 place ("": none)
--         7 not to be claimed before µs (0: never again); for state c: the end of its lease and of its place
--         8 time of the outcome µs  9 agenda entry for webhooks ("": none; dropped if the user was deleted meanwhile)  10 uid
--         for state d also: 11 name of the dead letter  12 lifetime ms
-- Returns 1, or 0 if another worker has claimed the delivery since.
-- Cost    O(1); a withdrawal: O(deliveries of the item)
local deliveries_key, places_key, withdrawals_key, agenda_key, due_key, dead_letters_key, state_key = KEYS[1], KEYS[2],
  KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local key, attempt, state, attempts, story, place, not_before, outcome_at, webhook_entry, uid, dead_letter, lifetime_ms =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local call, sub = redis.call, string.sub
local FINAL_STATES = 'sxvd'  -- sent, cancelled, withdrawn, dead
local MOST_EXPIRED = 100  -- expired dead letters that are removed with a new one
local entry = call('HGET', deliveries_key, key)
if entry and not string.find('pwcsruxvd', sub(entry, 1, 1), 1, true) then
  return {err = 'UNKNOWNFORMAT delivery ' .. string.byte(entry)}
end
if not entry or sub(entry, 1, 1) ~= 'c' or tonumber(sub(entry, 2, 5)) ~= tonumber(attempt) then return 0 end
call('HSET', deliveries_key, key, string.format('%s%04d%017.0f', state, tonumber(attempts), tonumber(not_before)) .. story)
if webhook_entry ~= '' and call('EXISTS', state_key) == 1 then
  call('ZADD', agenda_key, outcome_at, webhook_entry)
  call('ZADD', due_key, 'LT', outcome_at, uid)
end
if state == 'd' then
  call('ZADD', dead_letters_key, outcome_at, dead_letter)
  -- a few at a time: thousands may have expired since the last dead letter, and reads leave them out
  local expired = call('ZCOUNT', dead_letters_key, '-inf', string.format('%.0f',
    tonumber(outcome_at) - tonumber(lifetime_ms) * 1000))
  if expired > 0 then call('ZREMRANGEBYRANK', dead_letters_key, 0, math.min(expired, MOST_EXPIRED) - 1) end
  call('PEXPIRE', dead_letters_key, lifetime_ms)
end
if place ~= '' then
  local holder = call('HGET', places_key, place)
  if holder and sub(holder, 18) == deliveries_key .. ' ' .. key then
    if state == 'c' then
      call('HSET', places_key, place, string.format('%017.0f', tonumber(not_before)) .. sub(holder, 18))
    else
      call('HDEL', places_key, place)
    end
  end
end
local is_final = string.find(FINAL_STATES, state, 1, true) or (state == 'u' and tonumber(not_before) == 0)
if is_final and sub(key, 1, 9) == 'withdraw/' then
  local waiting = sub(key, 10) .. string.match(deliveries_key, '/[^/]*$')
  call('HDEL', withdrawals_key, waiting, 'c/' .. waiting)
  if state == 's' then
    local target, entries = string.match(key, '^withdraw/%d+(/.*)$'), call('HGETALL', deliveries_key)
    for i = 1, #entries, 2 do
      if sub(entries[i], 1, 9) ~= 'withdraw/' and sub(entries[i], -#target) == target and sub(entries[i+1], 1, 1) == 's' then
        call('HSET', deliveries_key, entries[i], 'v' .. sub(entries[i+1], 2))
      end
    end
    if place ~= '' then
      -- this withdrawal was a separate push, which wakes the device: remember when, to limit such pushes per hour
      local all_attempts = cjson.decode(story).attempts
      local sent_at = all_attempts[#all_attempts][1]
      local woken = string.format('%.0f', sent_at)
      for earlier in string.gmatch(call('HGET', withdrawals_key, sub(target, 2)) or '', '%d+') do
        if tonumber(earlier) > sent_at - 3600000000 then woken = woken .. ',' .. earlier end
      end
      call('HSET', withdrawals_key, sub(target, 2), woken)
    end
  end
end
return 1
