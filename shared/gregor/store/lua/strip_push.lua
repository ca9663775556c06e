-- strip_push: write a registration (that without its push, or back) if it is still the one that was read.
-- KEYS 1 registrations
-- ARGV 1 device  2 the registration's JSON after its times, as read  3 what it becomes
-- Returns 1 where it was written, else 0. Cost O(1).
local kept = call('HGET', KEYS[1], ARGV[1])
if not kept then return 0 end
local head, seen, tail = match(kept, KNOWN)
if tail ~= ARGV[2] then return 0 end
call('HSET', KEYS[1], ARGV[1], head .. seen .. ARGV[3])
return 1
