-- ledger_settle: write the verdict of a claim, or more of its story (state c), if the claim is still ours.
-- KEYS 1 deliveries of the item  2 places in use of the user  3 withdrawals of the user  4 agenda  5 due users of the
--      partition  6 dead letters of the partition
-- ARGV 1 key  2 attempt n of the claim  3 new state letter  4 attempts to record  5 story  6 place ("" none)
--      7 not to be claimed before µs (0: none); with the state c: the end of its lease  8 when this came about µs
--      9 entry of the agenda for who wants to hear of it ("" nobody)  10 uid; with the state d: 11 its name among the dead
--      letters  12 lifetime ms
-- Returns 1, or 0 where another worker has taken it since. Cost O(1); a withdrawal: O(deliveries of the item).
local call, sub = redis.call, string.sub
local entry = call('HGET', KEYS[1], ARGV[1])
if not entry or sub(entry, 1, 1) ~= 'c' or tonumber(sub(entry, 2, 5)) ~= tonumber(ARGV[2]) then return 0 end
call('HSET', KEYS[1], ARGV[1], string.format('%s%04d%017.0f', ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[7])) .. ARGV[5])
if ARGV[9] ~= '' then
  call('ZADD', KEYS[4], ARGV[8], ARGV[9])
  call('ZADD', KEYS[5], 'LT', ARGV[8], ARGV[10])
end
if ARGV[3] == 'd' then
  call('ZADD', KEYS[6], ARGV[8], ARGV[11])
  call('ZREMRANGEBYSCORE', KEYS[6], '-inf', string.format('%.0f', tonumber(ARGV[8]) - tonumber(ARGV[12]) * 1000))
  call('PEXPIRE', KEYS[6], ARGV[12])
end
if ARGV[6] ~= '' then
  local held = call('HGET', KEYS[2], ARGV[6])
  if held and sub(held, 18) == KEYS[1] .. ' ' .. ARGV[1] then call('HDEL', KEYS[2], ARGV[6]) end
end
local is_over = string.find('sxvd', ARGV[3], 1, true) or (ARGV[3] == 'u' and tonumber(ARGV[7]) == 0)
if is_over and sub(ARGV[1], 1, 9) == 'withdraw/' then
  call('HDEL', KEYS[3], sub(ARGV[1], 10) .. string.match(KEYS[1], '/[^/]*$'))
  if ARGV[3] == 's' then
    local where, all = string.match(ARGV[1], '^withdraw/%d+(/.*)$'), call('HGETALL', KEYS[1])
    for i = 1, #all, 2 do
      if sub(all[i], 1, 9) ~= 'withdraw/' and sub(all[i], -#where) == where and sub(all[i+1], 1, 1) == 's' then
        call('HSET', KEYS[1], all[i], 'v' .. sub(all[i+1], 2))
      end
    end
    if ARGV[6] ~= '' then
      -- it went out by itself: the device was woken, and is not too often in an hour
      local told = cjson.decode(ARGV[5]).attempts
      local at = told[#told][1]
      local woken = string.format('%.0f', at)
      for past in string.gmatch(call('HGET', KEYS[3], sub(where, 2)) or '', '%d+') do
        if tonumber(past) > at - 3600000000 then woken = woken .. ',' .. past end
      end
      call('HSET', KEYS[3], sub(where, 2), woken)
    end
  end
end
return 1
