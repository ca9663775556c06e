-- drop_device: end the presence of a device and what it acknowledged, and tell its gateways to close it (L8).
-- KEYS 1 presence  2 acknowledgements  ARGV 1 device  2 channel  3 what is told
-- Returns how many fields went. Cost O(leases and acknowledgements of the user).
local prefix, count = ARGV[1] .. '\0', 0
for i = 1, 2 do
  for _, field in ipairs(redis.call('HKEYS', KEYS[i])) do
    if string.sub(field, 1, #prefix) == prefix then count = count + redis.call('HDEL', KEYS[i], field) end
  end
end
redis.call('SPUBLISH', ARGV[2], ARGV[3])
return count
