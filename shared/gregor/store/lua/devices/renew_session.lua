-- renew_session: Renew the lease of a session (a heartbeat); a lost session is recorded again. Does nothing if another
-- connection holds it, unless that one was opened earlier: then it was replaced, and a failover lost the replacement.
-- KEYS    1 presence
-- ARGV    1 device NUL session  2 JSON of the lease  3 now µs  4 lifetime of presence ms  5 live gateways, each between two
--         spaces  6 "1": only if the session is open and of this connection; it keeps its gateway, and a longer lease
-- Returns 1 if the lease was renewed, else 0.
-- Cost    O(1)
local presence_key = KEYS[1]
local field, lease, now, lifetime_ms, live_gateways, only_open = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1'
local stored = call('HGET', presence_key, field)
if only_open and not stored then return 0 end
if stored then
  local own_until, _, own_opened, own_connection = match(lease, LEASE_PATTERN)
  local lease_until, _, opened, connection, gateway = lease_parts(stored)
  local is_own, is_over = connection == own_connection, not is_open(lease_until, gateway, tonumber(now), live_gateways)
  if only_open then
    if is_over or not is_own then return 0 end
    -- its poll may have ended, or its gateway taken another id, since the caller read it
    lease = string.gsub(lease, '"gateway":"[^"]*"', function() return '"gateway":"' .. gateway .. '"' end, 1)
    if tonumber(lease_until) > tonumber(own_until) then lease = string.gsub(lease, '%d+', lease_until, 1) end
  elseif not (is_own or is_over) and tonumber(opened) >= tonumber(own_opened) then
    return 0
  end
  if not string.find(lease, '"foreground":true', 1, true) then record_foreground(presence_key, stored, now) end
end
call('HSET', presence_key, field, lease)
call('PEXPIRE', presence_key, lifetime_ms)
return 1
