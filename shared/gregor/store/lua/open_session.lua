-- open_session: a connection is there; what it displaces goes, and so does every lease of the user that ran out.
-- KEYS 1 presence  2 registrations
-- ARGV 1 device  2 session  3 the lease's JSON  4 now µs  5 connections a device may have  6 lifetime of presence, ms
-- Returns the JSON of the leases that it displaced: that of its own session first, then the oldest past the bound.
-- Cost O(leases of the user).
local now, mine = tonumber(ARGV[4]), ARGV[1] .. '\0' .. ARGV[2]
local _, _, _, connection = match(ARGV[3], LEASE)
local displaced, others = {}, {}
local all = call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local field, lease = all[i], all[i+1]
  local device = sub(field, 1, (string.find(field, '\0', 1, true) or 1) - 1)
  local ends, seen, opened, held_by = match(lease, LEASE)
  if not ends then -- the moment of the last foreground
  elseif tonumber(ends) <= now then
    call('HDEL', KEYS[1], field)
    see(KEYS[2], device, seen)
    front(KEYS[1], lease, seen)
  elseif field == mine then
    front(KEYS[1], lease, ARGV[4])
    if held_by ~= connection then displaced[1] = lease end
  elseif device == ARGV[1] then
    others[#others+1] = {opened = tonumber(opened), field = field, lease = lease}
  end
end
table.sort(others, function(a, b)
  if a.opened ~= b.opened then return a.opened < b.opened end
  return a.field < b.field
end)
for i = 1, #others + 1 - tonumber(ARGV[5]) do
  call('HDEL', KEYS[1], others[i].field)
  front(KEYS[1], others[i].lease, ARGV[4])
  displaced[#displaced+1] = others[i].lease
end
call('HSET', KEYS[1], mine, ARGV[3])
call('PEXPIRE', KEYS[1], ARGV[6])
see(KEYS[2], ARGV[1], ARGV[4])
return displaced
