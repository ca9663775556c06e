-- expedite: Make deliveries that wait for their retry time due now. The agenda then checks the item and enqueues them.
-- KEYS    1 deliveries of the item  2 agenda  3 due users of the partition
-- ARGV    1 now µs  2 uid  3 item  4… key and entry of each delivery, as they were read
-- Returns the number of deliveries changed. A delivery that changed since it was read is left as it is.
-- Cost    O(keys)
local deliveries_key, agenda_key, due_key = KEYS[1], KEYS[2], KEYS[3]
local now, uid, item = ARGV[1], ARGV[2], ARGV[3]
local call, sub, expedited = redis.call, string.sub, 0
for i = 4, #ARGV, 2 do
  if call('HGET', deliveries_key, ARGV[i]) == ARGV[i+1] then
    -- only the retry time changes; the story keeps the old one, by which the agenda recognizes an expedited delivery
    local entry = sub(ARGV[i+1], 1, 5) .. string.format('%017.0f', tonumber(now)) .. sub(ARGV[i+1], 23)
    call('HSET', deliveries_key, ARGV[i], entry)
    expedited = expedited + 1
  end
end
if expedited > 0 then
  call('ZADD', agenda_key, now, 'o' .. item)
  call('ZADD', due_key, 'LT', now, uid)
end
return expedited
