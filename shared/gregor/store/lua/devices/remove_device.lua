-- remove_device: Remove the sessions and acknowledgements of a device, and publish a close to its gateways (L8).
-- KEYS    1 presence  2 acknowledgements
-- ARGV    1 device  2 channel  3 control message
-- Returns the number of fields removed.
-- Cost    O(leases of the user)
local device, channel, message = ARGV[1], ARGV[2], ARGV[3]
local prefix, removed = device .. '\0', redis.call('HDEL', KEYS[2], device)
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, #prefix) == prefix then removed = removed + redis.call('HDEL', KEYS[1], field) end
end
redis.call('SPUBLISH', channel, message)
return removed
