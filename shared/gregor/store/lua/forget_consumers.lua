-- forget_consumers: names of processes that are long gone leave the group, where nothing is in their hands.
-- KEYS 1 stream
-- ARGV 1 group  2 idle ms
-- Returns how many went. Cost O(consumers).
local call, gone = redis.call, 0
for _, consumer in ipairs(call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local facts = {}
  for i = 1, #consumer, 2 do facts[consumer[i]] = consumer[i+1] end
  if facts.pending == 0 and facts.idle >= tonumber(ARGV[2]) then
    call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], facts.name)
    gone = gone + 1
  end
end
return gone
