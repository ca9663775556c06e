-- lease_codec: The part that the scripts on sessions and registrations begin with: patterns for the JSON that Python writes.
-- `gregor/store/redis/devices/device_codec.py` fixes the order of the members, so a pattern finds them without cjson.
local call, sub, match = redis.call, string.sub, string.match
local LEASE_PATTERN = '^{"lease_until_us":(%d+),"seen_us":(%d+),"opened_us":(%d+),"connection":"([^"]*)"'
local REGISTRATION_PATTERN = '^({"first_seen_us":%d+,"last_seen_us":)(%d+)(.*)$'
-- record that a registered device was connected at `at` (µs, as text)
local function record_seen(key, device, at)
  local stored = call('HGET', key, device)
  if not stored then return end
  local head, seen, tail = match(stored, REGISTRATION_PATTERN)
  if tonumber(seen) < tonumber(at) then call('HSET', key, device, head .. at .. tail) end
end
-- record that the session of this lease was in the foreground until `at` (µs, as text); the field is not a lease
local function record_foreground(key, lease, at)
  if string.find(lease, '"foreground":true', 1, true) then call('HSET', key, 'front', at) end
end
