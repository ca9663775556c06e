-- revoke: Revoke the tokens issued up to a moment, and publish it to the gateways. A revocation never becomes weaker.
-- KEYS    1 revocations
-- ARGV    1 device ("": all)  2 issued at or before µs  3 revocations up to this time (µs) have no effect any longer
--         4 lifetime of this revocation ms  5 channel  6 control message
-- Returns 1
-- Cost    O(devices with a revocation)
local revocations_key = KEYS[1]
local device, issued_before, obsolete_before, lifetime_ms, channel, message = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5],
  ARGV[6]
local call = redis.call
local all = call('HGETALL', revocations_key)
local before, obsolete = issued_before, tonumber(obsolete_before)
-- A revocation of all devices covers those of single ones: after the deletion of a user, no device name remains.
if device == '' then obsolete = math.max(obsolete, tonumber(issued_before)) end
for i = 1, #all, 2 do
  if all[i] == device then
    if tonumber(all[i+1]) > tonumber(before) then before = all[i+1] end
  elseif tonumber(all[i+1]) <= obsolete then call('HDEL', revocations_key, all[i]) end
end
call('HSET', revocations_key, device, before)
if call('PTTL', revocations_key) < tonumber(lifetime_ms) then call('PEXPIRE', revocations_key, lifetime_ms) end
call('SPUBLISH', channel, message)
return 1
