-- register: Register a device, or replace its registration; the times when it was first and last seen stay.
-- KEYS    1 registrations  2 agenda  3 due users of the partition  4 revocations
-- ARGV    1 device  2 now µs  3 the most devices of a user  4 JSON of the registration after its times, with its comma
--         5 "1": replace an existing registration  6 uid  7 when to check for inactive devices µs
--         8 registration that must be stored, as in 4 ("": any, "-": none)  9 when the token that registered the push token
--         was issued µs ("": by a service key, or without a push token)
-- Returns {"full"} | {"changed"} | {"revoked"} (nothing was done) | {"new"} | {"known", registration before}
-- Cost    O(1)
local registrations_key, agenda_key, due_key, revocations_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local device, now, most, registration, replaces, uid, check_at, expected, issued = ARGV[1], ARGV[2], ARGV[3], ARGV[4],
  ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
-- a revocation may come after the request was authorized: the push tokens that it covers are removed only once
if issued ~= '' then
  for _, before in ipairs(call('HMGET', revocations_key, device, '')) do
    if before and tonumber(before) >= tonumber(issued) then return {'revoked'} end
  end
end
local stored = call('HGET', registrations_key, device)
if stored then
  if replaces == '1' then
    local head, seen, tail = registration_parts(stored)
    if expected ~= '' and expected ~= tail then return {'changed'} end
    call('HSET', registrations_key, device, head .. seen .. registration)
  end
  return {'known', stored}
end
if expected ~= '' and expected ~= '-' then return {'changed'} end
if call('HLEN', registrations_key) >= tonumber(most) then return {'full'} end
call('HSET', registrations_key, device, '{"first_seen_us":' .. now .. ',"last_seen_us":0' .. registration)
if call('ZADD', agenda_key, 'NX', check_at, 'v') == 1 then call('ZADD', due_key, 'LT', check_at, uid) end
return {'new'}
