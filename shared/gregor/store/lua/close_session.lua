-- close_session: a connection is gone. Nothing where another connection holds the session.
-- KEYS 1 presence  2 registrations  ARGV 1 device  2 session  3 JSON of a lease of the connection  4 now µs
-- Returns 1 where it was closed, else 0. Cost O(1).
local field = ARGV[1] .. '\0' .. ARGV[2]
local kept = call('HGET', KEYS[1], field)
if not kept then return 0 end
local _, _, _, mine = match(ARGV[3], LEASE)
local ends, seen, _, connection = match(kept, LEASE)
if connection ~= mine then return 0 end
call('HDEL', KEYS[1], field)
-- one whose lease ran out was not there to the end: nobody knows longer than its last heartbeat
local last = tonumber(ends) > tonumber(ARGV[4]) and ARGV[4] or seen
see(KEYS[2], ARGV[1], last)
front(KEYS[1], kept, last)
return 1
