-- ledger_plan: enter deliveries that are not in the ledger yet; the first entry under a key stands. Of a user that is
-- forgotten nothing is entered.
-- KEYS 1 deliveries of the item  2 items with deliveries, by time  3 withdrawals of the user  4 state  5 agenda
--      6 due users of the partition
-- ARGV 1 now µs  2 lifetime ms  3 item  4 state letter  5 what became of them is asked at µs  6… key, story
-- Returns the keys that were new. Cost O(keys).
local call, fresh = redis.call, {}
if call('EXISTS', KEYS[4]) == 0 then return fresh end
for i = 6, #ARGV, 2 do
  -- an entry: state c1, attempts as 4 digits, lease until as 17 digits, story
  if call('HSETNX', KEYS[1], ARGV[i], ARGV[4] .. '0000' .. '00000000000000000' .. ARGV[i+1]) == 1 then
    fresh[#fresh+1] = ARGV[i]
    if ARGV[4] == 'p' and string.sub(ARGV[i], 1, 9) == 'withdraw/' then
      -- n/device/channel/item: when it was planned
      call('HSET', KEYS[3], string.sub(ARGV[i], 10) .. '/' .. ARGV[3], ARGV[1])
      call('PEXPIRE', KEYS[3], ARGV[2])
    end
  end
end
if #fresh > 0 then
  call('PEXPIRE', KEYS[1], ARGV[2])
  call('ZADD', KEYS[2], ARGV[1], ARGV[3])
  call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', tonumber(ARGV[1]) - tonumber(ARGV[2]) * 1000))
  call('PEXPIRE', KEYS[2], ARGV[2])
  if ARGV[4] == 'p' and call('ZADD', KEYS[5], 'NX', ARGV[5], 'o' .. ARGV[3]) == 1 then
    -- the uid: the state is "<prefix>h:<uid>" and the due set "<prefix>due"
    call('ZADD', KEYS[6], 'LT', ARGV[5], string.sub(KEYS[4], #KEYS[6]))
  end
end
return fresh
