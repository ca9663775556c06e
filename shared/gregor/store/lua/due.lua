-- due: which housekeeping of a user is due: expiries, and whether anything is to be forgotten. Read only.
-- KEYS 1 agenda  ARGV 1 now µs
-- Returns {expired ids in order of time, "1" where something is to be forgotten}. Cost O(due entries).
local ids, forget = {}, ''
local due = call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
for i = 1, #due do
  local kind = sub(due[i], 1, 1)
  if kind == 'x' then ids[#ids+1] = sub(due[i], 2)
  elseif kind == 'm' or kind == 'e' or kind == 'g' then forget = '1' end
end
return {ids, forget}
