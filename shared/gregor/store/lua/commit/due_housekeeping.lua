-- due_housekeeping: Return which housekeeping of a user is due: expired items, and records to collect.
-- Read only.
-- KEYS    1 agenda
-- ARGV    1 now µs
-- Returns {ids of expired items in order of time, the records that `collect` must examine: "a" all, "m" only external messages
--         and message ids, "" none}
-- Cost    O(due entries)
local agenda_key = KEYS[1]
local now = ARGV[1]
local ids, collect = {}, ''
local entries = call('ZRANGEBYSCORE', agenda_key, '-inf', now)
for i = 1, #entries do
  local kind = sub(entries[i], 1, 1)
  if kind == 'x' then ids[#ids+1] = sub(entries[i], 2)
  elseif kind == 'g' then collect = 'a'
  elseif (kind == 'm' or kind == 'e') and collect == '' then collect = 'm' end
end
return {ids, collect}
