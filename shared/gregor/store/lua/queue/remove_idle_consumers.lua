-- remove_idle_consumers: Remove the consumers of ended processes from the group, if they have no pending entries.
-- KEYS    1 stream
-- ARGV    1 group  2 idle ms
-- Returns the number removed.
-- Cost    O(consumers)
local stream_key = KEYS[1]
local group, idle_ms = ARGV[1], ARGV[2]
local call, removed = redis.call, 0
for _, consumer in ipairs(call('XINFO', 'CONSUMERS', stream_key, group)) do
  local info = {}
  for i = 1, #consumer, 2 do info[consumer[i]] = consumer[i+1] end
  if info.pending == 0 and info.idle >= tonumber(idle_ms) then
    call('XGROUP', 'DELCONSUMER', stream_key, group, info.name)
    removed = removed + 1
  end
end
return removed
