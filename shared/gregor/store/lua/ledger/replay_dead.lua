-- replay_dead: Plan a dead delivery again. The agenda then checks the item now and enqueues it.
-- KEYS    1 deliveries of the item  2 dead letters of the partition  3 items with deliveries, by time  4 withdrawals of the
--         user  5 agenda  6 due users of the partition  7 items with webhook events, by time
-- ARGV    1 key  2 entry as it was read  3 new entry  4 name of the dead letter  5 now µs  6 lifetime ms  7 uid  8 item
--         9 when the delivery was first planned µs
-- Returns 1, or 0 if it is not a dead letter or changed since it was read.
-- Cost    O(log n)
local deliveries_key, dead_letters_key, delivered_items_key, withdrawals_key, agenda_key, due_key, event_items_key =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local key, expected, planned, dead_letter, now, lifetime_ms, uid, item, planned_at = ARGV[1], ARGV[2], ARGV[3], ARGV[4],
  ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local call = redis.call
if not call('ZSCORE', dead_letters_key, dead_letter) or call('HGET', deliveries_key, key) ~= expected then return 0 end
call('ZREM', dead_letters_key, dead_letter)
call('HSET', deliveries_key, key, planned)
call('PEXPIRE', deliveries_key, lifetime_ms)
call('ZADD', delivered_items_key, now, item)
call('PEXPIRE', delivered_items_key, lifetime_ms)
if string.sub(key, 1, 6) == 'event/' then
  call('ZADD', event_items_key, now, item)
  call('PEXPIRE', event_items_key, lifetime_ms)
end
if string.sub(key, 1, 9) == 'withdraw/' then
  call('HSET', withdrawals_key, string.sub(key, 10) .. '/' .. item, planned_at)
  call('PEXPIRE', withdrawals_key, lifetime_ms)
end
-- set the time even if the agenda has this entry: an entry that moved survives a completion that is under way
call('ZADD', agenda_key, now, 'o' .. item)
call('ZADD', due_key, 'LT', now, uid)
return 1
