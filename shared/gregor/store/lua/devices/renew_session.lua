-- renew_session: Renew the lease of a session (a heartbeat); a lost session is recorded again. Does nothing if another
-- connection holds it, unless that one was opened earlier: then it was replaced, and a failover lost the replacement.
-- KEYS    1 presence
-- ARGV    1 device NUL session  2 JSON of the lease  3 now µs  4 lifetime of presence ms  5 live gateways, each between two
--         spaces
-- Returns 1 if the lease was renewed, else 0.
-- Cost    O(1)
local presence_key = KEYS[1]
local field, lease, now, lifetime_ms, live_gateways = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local stored = call('HGET', presence_key, field)
if stored then
  local _, _, own_opened, own_connection = match(lease, LEASE_PATTERN)
  local lease_until, _, opened, connection, gateway = lease_parts(stored)
  local is_held = connection ~= own_connection and tonumber(opened) >= tonumber(own_opened)
  if is_held and is_open(lease_until, gateway, tonumber(now), live_gateways) then return 0 end
  if not string.find(lease, '"foreground":true', 1, true) then record_foreground(presence_key, stored, now) end
end
call('HSET', presence_key, field, lease)
call('PEXPIRE', presence_key, lifetime_ms)
return 1
