-- register: make a device known, or replace what is registered of it; when it was first and last seen stays.
-- KEYS 1 registrations  2 agenda  3 due users of the partition
-- ARGV 1 device  2 now µs  3 devices a user may have  4 the registration's JSON after its times, with its comma
--      5 "1": replace the one that is there  6 uid  7 when to look whether devices are dead, µs
--      8 what the registration must be for that, as in 4 ("" anything, "-" none)
-- Returns {"full"} | {"changed"} (nothing was done) | {"new"} | {"known", what was there}. Cost O(1).
local kept = call('HGET', KEYS[1], ARGV[1])
if kept then
  if ARGV[5] == '1' then
    local head, seen, tail = match(kept, KNOWN)
    if ARGV[8] ~= '' and ARGV[8] ~= tail then return {'changed'} end
    call('HSET', KEYS[1], ARGV[1], head .. seen .. ARGV[4])
  end
  return {'known', kept}
end
if ARGV[8] ~= '' and ARGV[8] ~= '-' then return {'changed'} end
if call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then return {'full'} end
call('HSET', KEYS[1], ARGV[1], '{"first_seen_us":' .. ARGV[2] .. ',"last_seen_us":0' .. ARGV[4])
if call('ZADD', KEYS[2], 'NX', ARGV[7], 'v') == 1 then call('ZADD', KEYS[3], 'LT', ARGV[7], ARGV[6]) end
return {'new'}
