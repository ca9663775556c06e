-- dead_drop: take dead letters of a partition off the list.
-- KEYS 1 dead letters
-- ARGV 1 those before µs  2 what their names begin with ("" anything)  3 and end with
-- Returns how many went. Cost O(those before).
local call, sub, dropped = redis.call, string.sub, 0
for _, name in ipairs(call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])) do
  if sub(name, 1, #ARGV[2]) == ARGV[2] and (ARGV[3] == '' or sub(name, -#ARGV[3]) == ARGV[3]) then
    dropped = dropped + call('ZREM', KEYS[1], name)
  end
end
return dropped
