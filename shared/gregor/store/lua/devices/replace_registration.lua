-- replace_registration: Replace a registration if it still equals the one that was read (used to remove its push token,
-- or restore it).
-- KEYS    1 registrations
-- ARGV    1 device  2 JSON of the registration after its times, as it was read  3 the new JSON
-- Returns 1 if it was written, else 0.
-- Cost    O(1)
local registrations_key = KEYS[1]
local device, expected, registration = ARGV[1], ARGV[2], ARGV[3]
local stored = call('HGET', registrations_key, device)
if not stored then return 0 end
local head, seen, tail = registration_parts(stored)
if tail ~= expected then return 0 end
call('HSET', registrations_key, device, head .. seen .. registration)
return 1
