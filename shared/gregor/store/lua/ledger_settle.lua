-- ledger_settle: write the verdict of a claim, if the claim is still ours.
-- KEYS 1 deliveries of the item  2 places in use of the user
-- ARGV 1 key  2 attempt n of the claim  3 new state letter  4 attempts to record  5 story  6 place ("" none)
--      7 not to be claimed before µs (0: none)
-- Returns 1, or 0 where another worker has taken it since. Cost O(1).
local call, sub = redis.call, string.sub
local entry = call('HGET', KEYS[1], ARGV[1])
if not entry or sub(entry, 1, 1) ~= 'c' or tonumber(sub(entry, 2, 5)) ~= tonumber(ARGV[2]) then return 0 end
call('HSET', KEYS[1], ARGV[1], string.format('%s%04d%017.0f', ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[7])) .. ARGV[5])
if ARGV[6] ~= '' then
  local held = call('HGET', KEYS[2], ARGV[6])
  if held and sub(held, 18) == KEYS[1] .. ' ' .. ARGV[1] then call('HDEL', KEYS[2], ARGV[6]) end
end
return 1
