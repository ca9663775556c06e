-- open_session: Record a connection; remove the sessions it displaces, every expired lease of its device, and those of other
-- devices: all if the user has few leases, else some.
-- KEYS    1 presence  2 registrations
-- ARGV    1 device  2 session  3 JSON of the lease  4 now µs  5 the most connections of a device  6 lifetime of presence ms
--         7 live gateways, each between two spaces  8 dead gateways as name=µs when they were last alive ("": not known yet)
-- Returns the JSON of the displaced leases: the one of the same session first, then the oldest beyond the bound. Nothing is
--         written and {"?", gateway…} returned if sessions of dead gateways are removed and argument 8 is "".
-- Cost    O(names of the user's sessions + sessions of the device)
local OTHERS = 2 -- examined leases of other devices: one call adds one lease, so expired ones become fewer
local presence_key, registrations_key = KEYS[1], KEYS[2]
local own_device, session, own_lease, now_text, most, lifetime_ms, live_gateways, ends = ARGV[1], ARGV[2], ARGV[3], ARGV[4],
  ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local now, own_field = tonumber(now_text), own_device .. '\0' .. session
local _, _, _, connection = match(own_lease, LEASE_PATTERN)
local displaced, siblings, own_stored = {}, {}, nil
local fields = device_fields(presence_key, own_device, OTHERS, now)
-- check every format, and ask for the ends of dead gateways, before the first write
local dead, expired = {'?'}, {}
for i = 1, #fields, 2 do
  local field, lease = fields[i], fields[i+1]
  if field ~= 'front' then -- the last foreground time is not a lease
    local lease_until, seen, opened, holder, gateway = lease_parts(lease)
    if not is_open(lease_until, gateway, now, live_gateways) then
      if gateway ~= '' then dead[#dead+1] = gateway end
      expired[#expired+1] = {field = field, lease = lease, seen = seen, gateway = gateway}
    elseif field == own_field then
      own_stored = lease
      if holder ~= connection then displaced[1] = lease end
    elseif sub(field, 1, #own_device + 1) == own_device .. '\0' then
      siblings[#siblings+1] = {opened = tonumber(opened), field = field, lease = lease}
    end
  end
end
if #dead > 1 and ends == '' then return dead end
record_seen(registrations_key, own_device, now_text)
for _, over in ipairs(expired) do
  local ended = over.gateway ~= '' and match(ends, ' ' .. over.gateway .. '=(%d+)') or over.seen
  if tonumber(ended) < tonumber(over.seen) then ended = over.seen end
  record_seen(registrations_key, sub(over.field, 1, (string.find(over.field, '\0', 1, true) or 1) - 1), ended)
  call('HDEL', presence_key, over.field)
  record_foreground(presence_key, over.lease, ended, true)
end
if own_stored then record_foreground(presence_key, own_stored, now_text) end
table.sort(siblings, function(a, b)
  if a.opened ~= b.opened then return a.opened < b.opened end
  return a.field < b.field
end)
for i = 1, #siblings + 1 - tonumber(most) do
  call('HDEL', presence_key, siblings[i].field)
  record_foreground(presence_key, siblings[i].lease, now_text)
  displaced[#displaced+1] = siblings[i].lease
end
call('HSET', presence_key, own_field, own_lease)
call('PEXPIRE', presence_key, lifetime_ms)
return displaced
