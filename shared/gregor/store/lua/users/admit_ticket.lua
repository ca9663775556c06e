-- admit_ticket: Record a ticket of a user, and remove the oldest tickets above the bounds.
-- KEYS    1 tickets of the user
-- ARGV    1 hash of the ticket  2 now µs  3 its expiry µs  4 its size in bytes  5 the most tickets of a holder
--         6 the most bytes of the user  7 the holder: a device, or a service key that observes
-- Returns the hashes of the removed tickets, which the process deletes: they are in other slots.
-- Cost    O(tickets of the user), about 400 by the bound of bytes: 0.4 ms
local key, hash, now, holder = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[7]
local expires, size, most, most_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local call, match = redis.call, string.match
-- one table for each field, not for each ticket: this takes half the time
local hashes, ages, ends, sizes, is_own = {}, {}, {}, {}, {}
local count, bytes, own, made = 0, size, 1, now
local all = call('HGETALL', key)
for i = 1, #all, 2 do
  local at, each_ends, each_size, each_holder = match(all[i+1], '^(%d+) (%d+) (%d+) (.*)$')
  at, each_ends, each_size = tonumber(at), tonumber(each_ends), tonumber(each_size)
  if each_ends <= now then
    call('HDEL', key, all[i])
  else
    count = count + 1
    hashes[count], ages[count], ends[count], sizes[count] = all[i], at, each_ends, each_size
    bytes = bytes + each_size
    if each_holder == holder then
      own, is_own[count] = own + 1, true
    end
    if at >= made then made = at + 1 end -- tickets of one moment keep their order
  end
end

local function oldest(only_own)
  local found
  for i = 1, count do
    if hashes[i] and (is_own[i] or not only_own) and (not found or ages[i] < ages[found]) then found = i end
  end
  return found
end

local removed = {}
while own > most or bytes > most_bytes do
  -- first the tickets of the holder: a device that requests many must not remove those of other devices
  local i = oldest(own > 1)
  if not i then break end -- the new ticket alone is too large
  removed[#removed+1] = hashes[i]
  call('HDEL', key, hashes[i])
  bytes, hashes[i] = bytes - sizes[i], false
  if is_own[i] then own = own - 1 end
end
local last = expires
for i = 1, count do
  if hashes[i] and ends[i] > last then last = ends[i] end
end
call('HSET', key, hash, string.format('%.0f %.0f %.0f ', made, expires, size) .. holder)
call('PEXPIRE', key, string.format('%.0f', math.ceil((last - now) / 1000)))
return removed
