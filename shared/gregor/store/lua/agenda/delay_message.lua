-- delay_message: Keep a message until its time. The first content under an id wins (semantics.md L2).
-- KEYS    1 delayed messages  2 agenda  3 due users of the partition  4 revocations
-- ARGV    1 message id  2 document  3 not before µs  4 uid  5 the most delayed messages of a user  6 the most bytes of them
--         7 device of the sender  8 when its token was issued µs (0: it has none)
-- Returns the stored document, or "" if the user has too many, or too many bytes (nothing was changed), or false if the
--         token of the sender is revoked
-- Cost    O(delayed messages), at most 1,000 by the bound: 0.8 ms
local delayed_key, agenda_key, due_key, revocations_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, document, not_before, uid, most, most_bytes = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local device, issued = ARGV[7], tonumber(ARGV[8])
local call = redis.call
-- a revocation may come after the request was authorized, for example because the user is deleted
if issued > 0 then
  for _, before in ipairs(call('HMGET', revocations_key, device, '')) do
    if before and tonumber(before) >= issued then return false end
  end
end
local stored = call('HGET', delayed_key, id)
if stored then return stored end
if call('HLEN', delayed_key) >= tonumber(most) then return '' end
local bytes = #document
-- Not HVALS: Lua would copy up to 1 MiB, which takes 2.7 ms.
for _, other in ipairs(call('HKEYS', delayed_key)) do bytes = bytes + call('HSTRLEN', delayed_key, other) end
if bytes > tonumber(most_bytes) then return '' end
call('HSET', delayed_key, id, document)
call('ZADD', agenda_key, not_before, 'd' .. id)
call('ZADD', due_key, 'LT', not_before, uid)
return document
