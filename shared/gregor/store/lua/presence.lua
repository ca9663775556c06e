-- Part of the scripts about presence: the members that they read of the JSON which the process wrote. The order of the
-- members is fixed there (`device_records.py`), so a pattern finds them; fakeredis and Redis then need no cjson.
local call, sub, match = redis.call, string.sub, string.match
local LEASE = '^{"lease_until_us":(%d+),"seen_us":(%d+),"opened_us":(%d+),"connection":"([^"]*)"'
local KNOWN = '^({"first_seen_us":%d+,"last_seen_us":)(%d+)(.*)$'
-- a known device was there at `at` (µs, as text)
local function see(key, device, at)
  local kept = call('HGET', key, device)
  if not kept then return end
  local head, seen, tail = match(kept, KNOWN)
  if tonumber(seen) < tonumber(at) then call('HSET', key, device, head .. at .. tail) end
end
-- somebody was in the foreground until `at` (µs, as text), by this lease; kept beside the leases, under a name that no
-- lease has
local function front(key, lease, at)
  if string.find(lease, '"foreground":true', 1, true) then call('HSET', key, 'front', at) end
end
