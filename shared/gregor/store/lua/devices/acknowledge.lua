-- acknowledge: Record that a view showed its user everything up to a seq. The seq never decreases.
-- KEYS    1 acknowledgements  2 the newest acknowledgements with their times; for webhooks also: 3 agenda  4 due users of the
--         partition
-- ARGV    1 device NUL the view's category filter  2 seq  3 the most views of a user  4 now µs  5 how many times are kept
--         6 their lifetime ms  7 uid
-- Returns 1 if the seq increased, else 0. Beyond the most views the lowest is removed: this can only cause an unneeded push.
--         With KEYS 3 and 4 the agenda gets an entry k: device NUL filter NUL from NUL to.
-- Cost    O(1); O(views) beyond the bound
local acks_key, recent_key, agenda_key, due_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local view, seq, most, now, recent_most, lifetime_ms, uid = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local call = redis.call
local stored = call('HGET', acks_key, view)
if stored then
  if tonumber(stored) >= tonumber(seq) then return 0 end
elseif call('HLEN', acks_key) >= tonumber(most) then
  local all, lowest = call('HGETALL', acks_key), 1
  for i = 3, #all, 2 do
    if tonumber(all[i+1]) < tonumber(all[lowest+1]) then lowest = i end
  end
  call('HDEL', acks_key, all[lowest])
end
call('HSET', acks_key, view, seq)
if call('RPUSH', recent_key, (stored or '0') .. ' ' .. seq .. ' ' .. now .. ' ' .. view) > tonumber(recent_most) then
  call('LPOP', recent_key)
end
call('PEXPIRE', recent_key, lifetime_ms)
if agenda_key then
  call('ZADD', agenda_key, now, 'k' .. view .. '\0' .. (stored or '0') .. '\0' .. seq)
  call('ZADD', due_key, 'LT', now, uid)
end
return 1
