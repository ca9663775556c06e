-- cancel_delayed: Remove a delayed message that no scheduler has begun to commit, or the form of it that was read.
-- KEYS    1 delayed messages  2 agenda
-- ARGV    1 message id  2 the stored form, claimed or not ("": any that is not claimed)
-- Returns 1 if the message was removed, else 0.
-- Cost    O(log agenda)
local delayed_key, agenda_key = KEYS[1], KEYS[2]
local id, form = ARGV[1], ARGV[2]
local CLAIMED = '{"claimed":true,'
local stored = redis.call('HGET', delayed_key, id)
if not stored or (form ~= '' and stored ~= form) then return 0 end
if form == '' and string.sub(stored, 1, #CLAIMED) == CLAIMED then return 0 end
redis.call('ZREM', agenda_key, 'd' .. id)
return redis.call('HDEL', delayed_key, id)
