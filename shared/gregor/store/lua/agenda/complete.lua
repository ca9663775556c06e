-- complete: Remove the completed entries from a user's agenda, or move them, and set when the user is due next.
-- An entry that moved in the meantime (the next reminder) stays, and so does a delayed message that is not claimed: it was
-- cancelled and sent again. If the lease passed to another scheduler, or earlier work
-- was added, the due time stays too. Postponed entries stay and make the user due again at the retry time.
-- The user is not due before now: a user with a backlog would precede all others.
-- KEYS    1 agenda  2 due users of the partition  3 delayed messages  4 state
-- ARGV    1 uid  2 end of the lease µs  3 retry time of postponed entries µs  4 number of postponed entries  5 now µs
--         6… their names, then four values for each completed entry: its name, its score µs as it was read, the user's seq as
--         it was read ("": do not compare), its new time µs ("": remove it). With a seq, the entry moves only if the user's
--         seq has changed; otherwise it is removed.
-- Returns 1
-- Cost    O(entries)
local agenda_key, due_key, delayed_key, state_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local uid, lease_until, retry_at, postponed_count, now = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local CLAIMED = '{"claimed":true,'
local function is_unclaimed(member)
  local message = sub(member, 1, 1) == 'd' and call('HGET', delayed_key, sub(member, 2))
  return message and sub(message, 1, #CLAIMED) ~= CLAIMED
end
local lease = call('ZSCORE', due_key, uid)
local holds_lease, seq, skip_count = lease and tonumber(lease) == tonumber(lease_until), nil, tonumber(postponed_count)
for i = 6 + skip_count, #ARGV, 4 do
  local member, new_time = ARGV[i], ARGV[i+3]
  local score = call('ZSCORE', agenda_key, member)
  if score and tonumber(score) == tonumber(ARGV[i+1]) and not is_unclaimed(member) then
    if ARGV[i+2] ~= '' and not seq then
      local raw_head = call('HGET', state_key, '.h')
      seq = 0
      if raw_head then
        if sub(raw_head, 1, 1) ~= 'H' then return {err = 'UNKNOWNFORMAT head ' .. string.byte(raw_head)} end
        _, seq = unpack_struct(HEAD_FIELDS, raw_head, 2)
      end
    end
    if new_time ~= '' and (ARGV[i+2] == '' or tonumber(ARGV[i+2]) ~= seq) then
      call('ZADD', agenda_key, new_time, member)
      if not holds_lease then call('ZADD', due_key, 'LT', new_time, uid) end
    else
      call('ZREM', agenda_key, member)
      if sub(member, 1, 1) == 'd' then call('HDEL', delayed_key, sub(member, 2)) end
    end
  end
end
if holds_lease then
  local is_postponed, retry, next_at = {}, nil, nil
  for i = 6, 5 + skip_count do is_postponed[ARGV[i]] = true end
  local first = call('ZRANGE', agenda_key, 0, skip_count, 'WITHSCORES')
  for i = 1, #first, 2 do
    if not is_postponed[first[i]] then next_at = first[i+1]; break end
    retry = retry_at
  end
  if retry and (not next_at or tonumber(retry) < tonumber(next_at)) then next_at = retry end
  if next_at and tonumber(next_at) < tonumber(now) then next_at = now end
  if next_at then call('ZADD', due_key, next_at, uid) else call('ZREM', due_key, uid) end
end
return 1
