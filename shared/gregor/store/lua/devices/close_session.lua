-- close_session: Remove the session of a closed connection. Does nothing if another connection holds the session.
-- KEYS    1 presence  2 registrations
-- ARGV    1 device  2 session  3 JSON of a lease of the connection  4 now µs  5 live gateways, each between two spaces
--         6 lifetime of presence ms
-- Returns 1 if it was removed, else 0.
-- Cost    O(1)
local presence_key, registrations_key = KEYS[1], KEYS[2]
local device, session, lease, now, live_gateways, lifetime_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local field = device .. '\0' .. session
local stored = call('HGET', presence_key, field)
if not stored then return 0 end
local _, _, _, own_connection = match(lease, LEASE_PATTERN)
local lease_until, seen, _, connection, gateway = lease_parts(stored)
if connection ~= own_connection then return 0 end
-- a session that is over is only known to have been open when it was last written
local last = is_open(lease_until, gateway, tonumber(now), live_gateways) and now or seen
record_seen(registrations_key, device, last)
call('HDEL', presence_key, field)
record_foreground(presence_key, stored, last, last ~= now)
-- the removal of the last field has also removed the key and its TTL
if call('PTTL', presence_key) < tonumber(lifetime_ms) then call('PEXPIRE', presence_key, lifetime_ms) end
return 1
