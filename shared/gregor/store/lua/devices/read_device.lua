-- read_device: Read the registration of a device and its sessions, as of one moment. Read only.
-- KEYS    1 registrations  2 presence
-- ARGV    1 device
-- Returns {} if the device is unknown, else {registration, fields of presence as name, value…}. The fields are those of the
--         device, and if there are few, also those of other devices.
-- Cost    O(names of the user's sessions + sessions of the device)
local registrations_key, presence_key = KEYS[1], KEYS[2]
local device = ARGV[1]
local registration = redis.call('HGET', registrations_key, device)
if not registration then return {} end
return {registration, device_fields(presence_key, device, 0, 0)}
