-- admit_ticket: Record a ticket of a user, and remove the oldest tickets above the bounds.
-- KEYS    1 tickets of the user
-- ARGV    1 hash of the ticket  2 now µs  3 its expiry µs  4 its size in bytes  5 the most tickets of a holder
--         6 the most bytes of the user  7 the holder: a device, or a service key that observes
-- Returns the hashes of the removed tickets, which the process deletes: they are in other slots.
-- Cost    O(tickets of the user), about 400 by the bound of bytes
local key, hash, now, holder = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[7]
local expires, size, most, most_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local call = redis.call
local kept, bytes, own, made, last = {}, size, 1, now, expires
local all = call('HGETALL', key)
for i = 1, #all, 2 do
  local at, ends, each_size, each_holder = string.match(all[i+1], '^(%d+) (%d+) (%d+) (.*)$')
  local each = {hash = all[i], at = tonumber(at), ends = tonumber(ends), size = tonumber(each_size), own = each_holder == holder}
  if each.ends <= now then
    call('HDEL', key, each.hash)
  else
    kept[#kept+1] = each
    bytes = bytes + each.size
    if each.own then own = own + 1 end
    if each.at >= made then made = each.at + 1 end -- tickets of one moment keep their order
  end
end
table.sort(kept, function(a, b) return a.at < b.at end)
local removed = {}
-- the holder's own first: a device that asks for many must not remove those of the other devices
for pass = 1, 2 do
  for _, each in ipairs(kept) do
    if not each.gone and (bytes > most_bytes or own > most) and (each.own or (pass == 2 and bytes > most_bytes)) then
      each.gone = true
      removed[#removed+1] = each.hash
      bytes = bytes - each.size
      if each.own then own = own - 1 end
      call('HDEL', key, each.hash)
    end
  end
end
for _, each in ipairs(kept) do
  if not each.gone and each.ends > last then last = each.ends end
end
call('HSET', key, hash, string.format('%.0f %.0f %.0f ', made, expires, size) .. holder)
call('PEXPIRE', key, string.format('%.0f', math.ceil((last - now) / 1000)))
return removed
