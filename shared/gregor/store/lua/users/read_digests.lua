-- read_digests: Return the stored digests of a user, and the live items from which they must follow. Read only.
-- KEYS    1 state  2 live items by seq  3 device registrations
-- ARGV    none
-- Returns {head, devices, their lanes, ids, records}; the first device is "", the view of backends. A head, lanes or a
--         record that is not stored is false. For an unknown user {}
-- Cost    O(live items + devices)
local state_key, live_key, registrations_key = KEYS[1], KEYS[2], KEYS[3]
local head = redis.call('HGET', state_key, '.h')
local members = redis.call('ZRANGE', live_key, 0, -1)
if not head and #members == 0 then return {} end
local devices = redis.call('HKEYS', registrations_key)
table.insert(devices, 1, '')
local function fetch(names)
  local values = {}
  for a = 1, #names, 2000 do
    local part = redis.call('HMGET', state_key, unpack(names, a, math.min(a + 1999, #names)))
    for j = 1, #part do values[a + j - 1] = part[j] end
  end
  return values
end
local lanes, ids = {}, {}
for i = 1, #devices do lanes[i] = '.d:' .. devices[i] end
for i = 1, #members do ids[i] = string.sub(members[i], 1, string.find(members[i], '\0', 1, true) - 1) end
return {head, devices, fetch(lanes), ids, fetch(ids)}
