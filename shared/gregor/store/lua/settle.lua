-- settle: take the entries that were acted on off a user's agenda, or move them, and say when the user is due next.
-- An entry that was moved meanwhile (the next reminder) stays. Where the lease passed to another, or earlier work came,
-- the due time is left as it is. What is held stays too, and is tried again at a time of its own.
-- KEYS 1 agenda  2 due users of the partition  3 delayed messages  4 state
-- ARGV 1 uid  2 lease until µs  3 when what is held is tried again µs  4 how many are held  5… their members, then
--      for each that was done: member, score µs as read, seq as read ("" any), new time µs ("" none).
--      With a seq the entry is moved only if the user's differs by now, else it goes; without one it is moved.
-- Returns 1. Cost O(entries).
local lease = call('ZSCORE', KEYS[2], ARGV[1])
local is_ours, seq, count = lease and tonumber(lease) == tonumber(ARGV[2]), nil, tonumber(ARGV[4])
for i = 5 + count, #ARGV, 4 do
  local member, again = ARGV[i], ARGV[i+3]
  local score = call('ZSCORE', KEYS[1], member)
  if score and tonumber(score) == tonumber(ARGV[i+1]) then
    if ARGV[i+2] ~= '' and not seq then
      local raw_head = call('HGET', KEYS[4], '.h')
      seq = 0
      if raw_head then _, seq = upk(HEAD, raw_head) end
    end
    if again ~= '' and (ARGV[i+2] == '' or tonumber(ARGV[i+2]) ~= seq) then
      call('ZADD', KEYS[1], again, member)
      if not is_ours then call('ZADD', KEYS[2], 'LT', again, ARGV[1]) end
    else
      call('ZREM', KEYS[1], member)
      if sub(member, 1, 1) == 'd' then call('HDEL', KEYS[3], sub(member, 2)) end
    end
  end
end
if is_ours then
  local held, retry, next_at = {}, nil, nil
  for i = 5, 4 + count do held[ARGV[i]] = true end
  local first = call('ZRANGE', KEYS[1], 0, count, 'WITHSCORES')
  for i = 1, #first, 2 do
    if not held[first[i]] then next_at = first[i+1]; break end
    retry = ARGV[3]
  end
  if retry and (not next_at or tonumber(retry) < tonumber(next_at)) then next_at = retry end
  if next_at then call('ZADD', KEYS[2], next_at, ARGV[1]) else call('ZREM', KEYS[2], ARGV[1]) end
end
return 1
