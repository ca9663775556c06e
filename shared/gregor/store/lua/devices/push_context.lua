-- push_context: Read everything that decides whether a device gets a push for an item, as of one moment. Read only.
-- Other places have the same rules: see semantics.md, "Where each rule lives".
-- KEYS    1 state  2 live items by seq  3 generation of the partition  4 registrations  5 presence  6 acknowledgements
--         7 contact and preferences  8 withdrawals
-- ARGV    1 now µs  2 device  3 item  4 live items up to which the categories are counted, if their records are short: 1 KiB
--         of JSON, and four dismissals by single devices, for each of this number  5 channel
--         6 fields of the withdrawals up to which those of the device and channel are read
-- Returns {} if the device is unknown, {"generation"} | {"due"} if something must be committed first, else {registration,
--         presence, acknowledgements of the device, contact, preferences, withdrawals, head, counts, record, seq, 1 if the
--         waiting withdrawals were read, else 0}. Hashes come as name, value…; counts as category, number of its live items
--         that the device sees…, or "" if counting costs more; record and seq are those of the item, "" and "0" if
--         the device does not see it. presence has the sessions of the device; if there are few, also those of other devices.
-- Cost    O(live items up to ARGV 4 + fields of the withdrawals up to ARGV 6 + names of the user's sessions + stored values
--         of the device)
local state_key, live_key, generation_key, registrations_key, presence_key, acks_key, contact_key, withdrawals_key =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local now, device, id, most_counted = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local registration = call('HGET', registrations_key, device)
if not registration then return {} end
local stored = call('HMGET', state_key, '.h', '.c', '.d:', '.d:' .. device)
local head, live_bytes = stored[1], 0
if head then
  if sub(head, 1, 1) ~= 'H' then return {err = 'UNKNOWNFORMAT head ' .. string.byte(head)} end
  local _, _, _, housekeeping_at, _, bytes, _, user_generation = unpack_struct(HEAD_FIELDS, head, 2)
  live_bytes = bytes
  if user_generation ~= tonumber(call('GET', generation_key) or 0) then return {'generation'} end
  if housekeeping_at > 0 and housekeeping_at <= tonumber(now) then return {'due'} end
end
-- return whether the device sees a live item
local function sees(raw)
  if sub(raw, 1, 1) ~= 'L' then error({err = 'UNKNOWNFORMAT record ' .. string.byte(raw)}) end
  local hidings, _, reminders, category, owner = unpack_struct('>I2I2BBB', raw, 16)
  local at = 63 + category
  if owner > 0 then
    local item_device = sub(raw, at, at + owner - 1)
    if item_device ~= '*' and item_device ~= device then return false end
  end
  at = at + owner + 7 * (reminders % 32)
  local stop = at + hidings
  while at < stop do
    local n = string.byte(raw, at)
    if n == #device and sub(raw, at + 1, at + n) == device then return false end
    at = at + n + 14
  end
  return true
end
local counts, position, record, seq = {}, {}, '', '0'
local function count(category)
  local at = position[category]
  if not at then
    at = #counts + 2; position[category] = at
    counts[at - 1] = category; counts[at] = 0
  end
  counts[at] = counts[at] + 1
end
local raw_item = call('HGET', state_key, id)
local kind = raw_item and sub(raw_item, 1, 1)
-- gone and unknown items are not seen; `sees` refuses a record of a later format
if raw_item and kind ~= 'G' and kind ~= 'T' and sees(raw_item) then
  record, seq = raw_item, call('ZSCORE', live_key, id .. '\0' .. sub(raw_item, 63, 62 + unpack_struct('B', raw_item, 21)))
end
-- No digest of a difference: all devices see the same items as this one, so no record must be read.
local sees_all = not stored[3] and not stored[4]
local device_dismissals = select(10, unpack_struct(COUNTS_FORMAT, (stored[2] or NO_COUNTS) .. ZEROS))
local is_counted = call('ZCARD', live_key) <= most_counted
  and (sees_all or (live_bytes <= 1024 * most_counted and device_dismissals <= 4 * most_counted))
if not is_counted then counts = '' end
local members = is_counted and call('ZRANGE', live_key, 0, -1) or {}
for a = 1, #members, 2000 do
  local ids, categories, last = {}, {}, math.min(a + 1999, #members)
  for i = a, last do
    local z = string.find(members[i], '\0', 1, true)
    ids[#ids+1] = sub(members[i], 1, z - 1); categories[#ids] = sub(members[i], z + 1)
  end
  local raws = not sees_all and call('HMGET', state_key, unpack(ids))
  for i = 1, #ids do if sees_all or (raws[i] and sees(raws[i])) then count(categories[i]) end end
end
-- fields of the device and channel: when it was woken; of each waiting withdrawal, when it was planned and its category
local withdrawals, place = {}, device .. '/' .. ARGV[5]
local woken = call('HGET', withdrawals_key, place)
if woken then withdrawals = {place, woken} end
local is_complete = call('HLEN', withdrawals_key) <= tonumber(ARGV[6]) and 1 or 0
local fields = is_complete == 1 and call('HGETALL', withdrawals_key) or {}
for i = 1, #fields, 2 do
  if string.find(fields[i], '/' .. place .. '/', 1, true) then
    withdrawals[#withdrawals+1] = fields[i]; withdrawals[#withdrawals+1] = fields[i+1]
  end
end
local contact = call('HMGET', contact_key, 'contact', 'preferences')
return {registration, device_fields(presence_key, device, 0, 0), call('HGET', acks_key, device) or '', contact[1], contact[2],
  withdrawals, head or '', counts, record, seq, is_complete}
