-- device_fields: The part that the scripts on one device begin with. It reads the sessions of the device, without those of
-- other devices: all sessions of a user may have 13 MB (64 devices with 8 sessions of 26 KB), which takes 55 ms.
local FEW_FIELDS = 9 -- the sessions of one device and the last foreground time: then one call returns all
-- Returns fields of presence as name, value…: all if they are few; else those of the device, and `others` fields of other
-- devices. `turn` selects them: pass another number in each call.
local function device_fields(presence_key, device, others, turn)
  local call = redis.call
  local count = call('HLEN', presence_key)
  if count == 0 then return {} end
  if count <= FEW_FIELDS then return call('HGETALL', presence_key) end
  local prefix, names, foreign = device .. '\0', {}, {}
  for _, field in ipairs(call('HKEYS', presence_key)) do
    if string.sub(field, 1, #prefix) == prefix then names[#names+1] = field else foreign[#foreign+1] = field end
  end
  for i = 1, math.min(others, #foreign) do names[#names+1] = foreign[(turn + i) % #foreign + 1] end
  local fields = {}
  for a = 1, #names, 1000 do
    for i, value in ipairs(call('HMGET', presence_key, unpack(names, a, math.min(a + 999, #names)))) do
      fields[#fields+1] = names[a + i - 1]; fields[#fields+1] = value
    end
  end
  return fields
end
