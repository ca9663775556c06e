-- cancel_delayed: Remove a delayed message that no scheduler has begun to commit.
-- KEYS    1 delayed messages  2 agenda
-- ARGV    1 message id
-- Returns 1 if the message was waiting, else 0.
-- Cost    O(log agenda)
local delayed_key, agenda_key = KEYS[1], KEYS[2]
local id = ARGV[1]
local CLAIMED = '{"claimed":true,'
local stored = redis.call('HGET', delayed_key, id)
if not stored or string.sub(stored, 1, #CLAIMED) == CLAIMED then return 0 end
redis.call('ZREM', agenda_key, 'd' .. id)
return redis.call('HDEL', delayed_key, id)
