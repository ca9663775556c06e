-- claim: Claim a delivery before it is sent: "claimed, attempt n" is stored before the provider is called.
-- A place (device and collapse id) is held with the claim: one delivery at a time.
-- KEYS    1 deliveries of the item  2 places in use of the user
-- ARGV    1 key  2 now µs  3 end of the lease µs  4 place ("": none)  5 lifetime of places ms
--         6 "1": claim it even if its retry time has not come
-- Returns {"absent"} | {"over", entry} | {"busy", until µs} | {"early", not before µs}
--         | {"claimed", entry before the claim, attempt n}
-- Cost    O(1)
local deliveries_key, places_key = KEYS[1], KEYS[2]
local key, now, lease_until, place, places_lifetime_ms, is_early = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local call, sub = redis.call, string.sub
local FINAL_STATES = 'sxvd'  -- sent, cancelled, withdrawn, dead
local entry = call('HGET', deliveries_key, key)
if not entry then return {'absent'} end
local state, attempts, lease = sub(entry, 1, 1), tonumber(sub(entry, 2, 5)), sub(entry, 6, 22)
lease = tonumber(lease)
-- a delivery with an unknown outcome and no retry time is final too
if string.find(FINAL_STATES, state, 1, true) or (state == 'u' and lease == 0) then return {'over', entry} end
if lease > tonumber(now) and (state == 'c' or is_early ~= '1') then
  return {state == 'c' and 'busy' or 'early', string.format('%.0f', lease)}
end
attempts = math.min(attempts + 1, 9999) -- an entry has four digits for it
if place ~= '' then
  local owner = deliveries_key .. ' ' .. key
  local holder = call('HGET', places_key, place)
  if holder and tonumber(sub(holder, 1, 17)) > tonumber(now) and sub(holder, 18) ~= owner then
    return {'busy', sub(holder, 1, 17)}
  end
  call('HSET', places_key, place, string.format('%017.0f', tonumber(lease_until)) .. owner)
  call('PEXPIRE', places_key, places_lifetime_ms)
end
call('HSET', deliveries_key, key, string.format('c%04d%017.0f', attempts, tonumber(lease_until)) .. sub(entry, 23))
return {'claimed', entry, attempts}
