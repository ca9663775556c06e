-- delete_user: Delete what is stored of a user, and its due time, in one step. What is written afterwards belongs to a
-- new user and stays. Nothing is deleted while a device has a push token, because only its registration leads to the owner.
-- KEYS    1 due users of the partition  2 registrations  3… the other keys
-- ARGV    1 uid
-- Returns the registrations with a push token, device and JSON in turn; empty: everything was deleted
-- Cost    O(keys and their size)
local due_key, registrations_key = KEYS[1], KEYS[2]
local registrations, with_push = redis.call('HGETALL', registrations_key), {}
for i = 1, #registrations, 2 do
  if string.find(registrations[i + 1], '"push":{"', 1, true) then
    with_push[#with_push + 1] = registrations[i]; with_push[#with_push + 1] = registrations[i + 1]
  end
end
if #with_push > 0 then return with_push end
redis.call('ZREM', due_key, ARGV[1])
redis.call('DEL', unpack(KEYS, 2))
return {}
