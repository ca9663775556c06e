-- lease_codec: The part that the scripts on sessions and registrations begin with: patterns for the JSON that Python writes.
-- `gregor/store/redis/devices/device_codec.py` fixes the order of the first members, so a pattern finds them without cjson.
local call, sub, match = redis.call, string.sub, string.match
local LEASE_PATTERN = '^{"lease_until_us":(%d+),"seen_us":(%d+),"opened_us":(%d+),"connection":"([^"]*)"()'
local REGISTRATION_PATTERN = '^({"first_seen_us":%d+,"last_seen_us":)(%d+)(.*)$'
-- Returns end, last write, start (µs, as text), connection and gateway of a lease. Fails if it has another format. A JSON
-- lease that cannot be read has ended: otherwise it would keep every device of the user out until presence expires.
local function lease_parts(lease)
  local lease_until, seen, opened, connection, at = match(lease, LEASE_PATTERN)
  if lease_until then return lease_until, seen, opened, connection, match(lease, '"gateway":"([^"]*)"', at) or '' end
  if sub(lease, 1, 1) ~= '{' then error({err = 'UNKNOWNFORMAT session ' .. (string.byte(lease) or 0)}) end
  return '0', '0', '0', '', ''
end
-- Returns whether a session is open: its own lease is not over, or its gateway is alive (` name ` is in the list).
local function is_open(lease_until, gateway, now, live_gateways)
  return tonumber(lease_until) > now
    or (gateway ~= '' and string.find(live_gateways, ' ' .. gateway .. ' ', 1, true) ~= nil)
end
-- Returns the parts of a stored registration: before, time last seen, after. Fails if it has another format.
local function registration_parts(stored)
  local head, seen, tail = match(stored, REGISTRATION_PATTERN)
  if not head then error({err = 'UNKNOWNFORMAT registration ' .. (string.byte(stored) or 0)}) end
  return head, seen, tail
end
-- record that a registered device was connected at `at` (µs, as text)
local function record_seen(key, device, at)
  local stored = call('HGET', key, device)
  if not stored then return end
  local head, seen, tail = registration_parts(stored)
  if tonumber(seen) < tonumber(at) then call('HSET', key, device, head .. at .. tail) end
end
-- record that the session of this lease was in the foreground until `at` (µs, as text, '0' if it is not known); the field is
-- not a lease. A session with a category filter has not shown the items of all categories, so it is not recorded. `is_past`:
-- the session ended before now, so a later time may already be stored.
local function record_foreground(key, lease, at, is_past)
  local is_recorded = at ~= '0' and string.find(lease, '"foreground":true', 1, true) and string.find(lease, '"cats":null', 1, true)
  if is_recorded and not (is_past and tonumber(call('HGET', key, 'front') or 0) >= tonumber(at)) then
    call('HSET', key, 'front', at)
  end
end
