-- ledger_hasten: what waits for its time is looked at now; the agenda asks what became of it: by that it is handed over.
-- KEYS 1 deliveries of the item  2 agenda  3 due users of the partition
-- ARGV 1 now µs  2 uid  3 item  4… key, the entry as it was read
-- Returns how many there were; one that has changed since it was read is left as it is. Cost O(keys).
local call, sub, hastened = redis.call, string.sub, 0
for i = 4, #ARGV, 2 do
  if call('HGET', KEYS[1], ARGV[i]) == ARGV[i+1] then
    -- "not before" is now; until when it was to wait stands in its story, by which the agenda knows that it is wanted
    local entry = sub(ARGV[i+1], 1, 5) .. string.format('%017.0f', tonumber(ARGV[1])) .. sub(ARGV[i+1], 23)
    call('HSET', KEYS[1], ARGV[i], entry)
    hastened = hastened + 1
  end
end
if hastened > 0 then
  call('ZADD', KEYS[2], ARGV[1], 'o' .. ARGV[3])
  call('ZADD', KEYS[3], 'LT', ARGV[1], ARGV[2])
end
return hastened
