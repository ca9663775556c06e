-- settle: take the entries that were acted on off a user's agenda, or move them, and say when the user is due next.
-- An entry that was moved meanwhile (the next reminder) stays. Where the lease passed to another, or earlier work came,
-- the due time is left as it is.
-- KEYS 1 agenda  2 due users of the partition  3 delayed messages  4 head
-- ARGV 1 uid  2 lease until µs  3… for each: member, score µs as read, seq as read ("" any), new time µs ("" none).
--      With a seq the entry is moved only if the user's differs by now, else it goes; without one it is moved.
-- Returns when the user is due next (µs), or "". Cost O(entries).
local lease = call('ZSCORE', KEYS[2], ARGV[1])
local is_ours, seq = lease and tonumber(lease) == tonumber(ARGV[2]), nil
for i = 3, #ARGV, 4 do
  local member, again = ARGV[i], ARGV[i+3]
  local score = call('ZSCORE', KEYS[1], member)
  if score and tonumber(score) == tonumber(ARGV[i+1]) then
    if ARGV[i+2] ~= '' and not seq then
      local raw_head = call('HGET', KEYS[4], 'h')
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
local first = call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if is_ours then
  if first[2] then call('ZADD', KEYS[2], first[2], ARGV[1]) else call('ZREM', KEYS[2], ARGV[1]) end
end
return first[2] or ''
