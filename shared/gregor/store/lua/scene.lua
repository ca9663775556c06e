-- scene: what decides whether a device is told of an item by a push, as of one moment. Read only.
-- KEYS 1 state  2 live by seq  3 flush generation  4 registrations  5 presence  6 acknowledgements  7 contact and
--      preferences  8 withdrawals
-- ARGV 1 now µs  2 device  3 item
-- Returns {} where there is no such device, {"generation"} | {"due"}, or {registration, presence, acknowledgements, contact,
--      preferences, withdrawals, head, counts, record, seq}: hashes as name, value…; counts: category, number of its live
--      items that the device sees…; record and seq: of the item, "" and "0" where the device does not see it.
-- Cost O(live items + what is kept of the user's devices).
local device, id = ARGV[2], ARGV[3]
local known = call('HGET', KEYS[4], device)
if not known then return {} end
local head = call('HGET', KEYS[1], '.h')
if head then
  local _, _, _, wake, _, _, _, gen = upk(HEAD, head)
  if gen ~= tonumber(call('GET', KEYS[3]) or 0) then return {'generation'} end
  if wake > 0 and wake <= tonumber(ARGV[1]) then return {'due'} end
end
-- whether the device sees a live item
local function sees(raw)
  local hidings, _, reminders, category, owner = upk('>I2I2BBB', raw, 16)
  local at = 63 + category
  if owner > 0 then
    local who = sub(raw, at, at + owner - 1)
    if who ~= '*' and who ~= device then return false end
  end
  at = at + owner + 7 * (reminders % 32)
  local stop = at + hidings
  while at < stop do
    local n = upk('B', raw, at)
    if sub(raw, at + 1, at + n) == device then return false end
    at = at + n + 14
  end
  return true
end
local counts, place, record, seq = {}, {}, '', '0'
local members = call('ZRANGE', KEYS[2], 0, -1)
for a = 1, #members, 2000 do
  local ids, categories, last = {}, {}, math.min(a + 1999, #members)
  for i = a, last do
    local z = string.find(members[i], '\0', 1, true)
    ids[#ids+1] = sub(members[i], 1, z - 1); categories[#ids] = sub(members[i], z + 1)
  end
  for i, raw in ipairs(call('HMGET', KEYS[1], unpack(ids))) do
    if raw and sees(raw) then
      local category = categories[i]
      local at = place[category]
      if not at then
        at = #counts + 2; place[category] = at
        counts[at - 1] = category; counts[at] = 0
      end
      counts[at] = counts[at] + 1
      if ids[i] == id then record, seq = raw, call('ZSCORE', KEYS[2], members[a + i - 1]) end
    end
  end
end
local said = call('HMGET', KEYS[7], 'contact', 'preferences')
return {known, call('HGETALL', KEYS[5]), call('HGETALL', KEYS[6]), said[1], said[2], call('HGETALL', KEYS[8]), head or '',
  counts, record, seq}
