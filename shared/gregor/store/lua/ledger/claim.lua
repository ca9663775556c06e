-- claim: Claim a delivery before it is sent: "claimed, attempt n" is stored before the provider is called.
-- A place (device and collapse id) is held with the claim: one delivery at a time.
-- With a budget, one message is taken from it in the same step (GCRA, as in deployment/rate_limit.lua). A delivery above
-- the budget is remembered for the next message to the same device and channel, which covers ("folds") it.
-- KEYS    1 deliveries of the item  2 places in use of the user; with a budget also  3 bucket  4 deliveries above the budget
-- ARGV    1 key  2 now µs  3 end of the lease µs  4 place ("": none)  5 lifetime of places ms
--         6 "1": claim it even if its retry time has not come
--         with a budget also  7 step of the bucket µs  8 capacity of the bucket µs  9 device and channel ("": fold nothing)
-- Returns {"absent"} | {"over", entry} | {"taken", until µs} | {"busy", until µs} | {"early", not before µs}
--         | {"budget", decide again at µs} | {"claimed", entry before the claim, attempt n, deliveries that it can cover}
-- Cost    O(1 + folded deliveries)
local deliveries_key, places_key = KEYS[1], KEYS[2]
local key, now, lease_until, place, places_lifetime_ms, is_early = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local call, sub = redis.call, string.sub
local FINAL_STATES = 'sxvd'  -- sent, cancelled, withdrawn, dead
local MAX_FOLDED, MAX_FOLDED_KEPT, FOLD_GRACE_US, FOLDED_LIFE_MS = 500, 10000, 5000000, 86400000
local entry = call('HGET', deliveries_key, key)
if not entry then return {'absent'} end
local state, attempts, lease = sub(entry, 1, 1), tonumber(sub(entry, 2, 5)), tonumber(sub(entry, 6, 22))
if not string.find('pwcsruxvd', state, 1, true) then return {err = 'UNKNOWNFORMAT delivery ' .. string.byte(entry)} end
-- a delivery with an unknown outcome and no retry time is final too
if string.find(FINAL_STATES, state, 1, true) or (state == 'u' and lease == 0) then return {'over', entry} end
if lease > tonumber(now) and (state == 'c' or is_early ~= '1') then
  return {state == 'c' and 'taken' or 'early', string.format('%.0f', lease)}
end
attempts = math.min(attempts + 1, 9999) -- an entry has four digits for it
if place ~= '' then
  local owner = deliveries_key .. ' ' .. key
  local holder = call('HGET', places_key, place)
  if holder and tonumber(sub(holder, 1, 17)) > tonumber(now) and sub(holder, 18) ~= owner then
    return {'busy', sub(holder, 1, 17)}
  end
end
local folded
if KEYS[3] then
  local bucket_key, folded_key, at, capacity, scope = KEYS[3], KEYS[4], tonumber(now), tonumber(ARGV[8]), ARGV[9]
  local full_at = tonumber(call('GET', bucket_key) or 0)
  if full_at < at then full_at = at end
  full_at = full_at + tonumber(ARGV[7])
  local may_at = full_at - capacity
  if may_at > at then
    if scope ~= '' then
      -- device/channel/kind/n/item
      local member = scope .. string.match(key, '^[^/]*/[^/]*/') .. string.match(deliveries_key, '[^/]*$')
      -- only the first of a device and channel is decided when the budget refills: it covers the others
      local first = call('ZRANGEBYLEX', folded_key, '[' .. scope, '(' .. scope .. '\255', 'LIMIT', 0, 2)
      if #first == 2 or (#first == 1 and first[1] ~= member) then may_at = may_at + FOLD_GRACE_US end
      if call('ZCARD', folded_key) < MAX_FOLDED_KEPT then
        call('ZADD', folded_key, 0, member)
        call('PEXPIRE', folded_key, FOLDED_LIFE_MS)
      end
    end
    return {'budget', string.format('%.0f', may_at)}
  end
  call('SET', bucket_key, string.format('%.0f', full_at), 'PX', math.ceil((full_at - at) / 1000) + 10000)
  -- with more than half of the budget left, nothing needs to be folded: each waiting delivery can be sent on its own
  if scope ~= '' and full_at - at > capacity / 2 then
    folded = call('ZRANGEBYLEX', folded_key, '[' .. scope, '(' .. scope .. '\255', 'LIMIT', 0, MAX_FOLDED)
    if #folded > 0 then call('ZREM', folded_key, unpack(folded)) end
  end
end
if place ~= '' then
  local owner = deliveries_key .. ' ' .. key
  call('HSET', places_key, place, string.format('%017.0f', tonumber(lease_until)) .. owner)
  call('PEXPIRE', places_key, places_lifetime_ms)
end
call('HSET', deliveries_key, key, string.format('c%04d%017.0f', attempts, tonumber(lease_until)) .. sub(entry, 23))
return {'claimed', entry, attempts, folded or {}}
