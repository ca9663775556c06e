-- touch_session: a heartbeat. Nothing where another connection holds the session; it stands again where it was lost.
-- KEYS 1 presence  ARGV 1 device NUL session  2 the lease's JSON  3 now µs  4 lifetime of presence, ms
-- Returns 1 where it was renewed, else 0. Cost O(1).
local kept = call('HGET', KEYS[1], ARGV[1])
if kept then
  local _, _, _, mine = match(ARGV[2], LEASE)
  local ends, _, _, connection = match(kept, LEASE)
  if connection ~= mine and tonumber(ends) > tonumber(ARGV[3]) then return 0 end
  if not string.find(ARGV[2], '"foreground":true', 1, true) then front(KEYS[1], kept, ARGV[3]) end
end
call('HSET', KEYS[1], ARGV[1], ARGV[2])
call('PEXPIRE', KEYS[1], ARGV[4])
return 1
