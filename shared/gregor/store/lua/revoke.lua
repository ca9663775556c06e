-- revoke: void the tokens issued up to a moment, and tell the gateways. A revocation never becomes weaker.
-- KEYS 1 revocations
-- ARGV 1 device ("" all of them)  2 issued at or before, µs  3 revocations up to here (µs) matter no more
--      4 lifetime of this one, ms  5 channel  6 what is told
-- Returns 1. Cost O(devices with a revocation).
local call = redis.call
local all = call('HGETALL', KEYS[1])
local before = ARGV[2]
for i = 1, #all, 2 do
  if all[i] == ARGV[1] then
    if tonumber(all[i+1]) > tonumber(before) then before = all[i+1] end
  elseif tonumber(all[i+1]) <= tonumber(ARGV[3]) then call('HDEL', KEYS[1], all[i]) end
end
call('HSET', KEYS[1], ARGV[1], before)
if call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then call('PEXPIRE', KEYS[1], ARGV[4]) end
call('SPUBLISH', ARGV[5], ARGV[6])
return 1
