-- ledger_claim: take a delivery to send it: "claimed, attempt n" stands before the provider is called.
-- One delivery at a time for a device and a place on its screen (collapse id).
-- KEYS 1 deliveries of the item  2 places in use of the user
-- ARGV 1 key  2 now µs  3 lease until µs  4 place ("" none)  5 lifetime of places ms
--      6 "1": even if it waits for its time
-- Returns {"absent"} | {"over", entry} | {"busy", until µs} | {"early", not before µs}
--       | {"claimed", entry as it was, attempt n}. Cost O(1).
local call, sub = redis.call, string.sub
local entry = call('HGET', KEYS[1], ARGV[1])
if not entry then return {'absent'} end
local state, n, lease = sub(entry, 1, 1), tonumber(sub(entry, 2, 5)), sub(entry, 6, 22)
lease = tonumber(lease)
-- what nobody knows the fate of, and nobody will try again, is over too
if string.find('sxvd', state, 1, true) or (state == 'u' and lease == 0) then return {'over', entry} end
if lease > tonumber(ARGV[2]) and (state == 'c' or ARGV[6] ~= '1') then return {state == 'c' and 'busy' or 'early', string.format('%.0f', lease)} end
n = math.min(n + 1, 9999) -- the digits that an entry has for it
if ARGV[4] ~= '' then
  local who = KEYS[1] .. ' ' .. ARGV[1]
  local held = call('HGET', KEYS[2], ARGV[4])
  if held and tonumber(sub(held, 1, 17)) > tonumber(ARGV[2]) and sub(held, 18) ~= who then return {'busy', sub(held, 1, 17)} end
  call('HSET', KEYS[2], ARGV[4], string.format('%017.0f', tonumber(ARGV[3])) .. who)
  call('PEXPIRE', KEYS[2], ARGV[5])
end
call('HSET', KEYS[1], ARGV[1], string.format('c%04d%017.0f', n, tonumber(ARGV[3])) .. sub(entry, 23))
return {'claimed', entry, n}
