-- release_push_token: Give up a push token if the device still owns it.
-- KEYS    1 owner of the token
-- ARGV    1 device, as the key names owners
-- Returns 1 if it was released, else 0.
-- Cost    O(1)
local owner_key = KEYS[1]
local owner = ARGV[1]
if redis.call('GET', owner_key) ~= owner then return 0 end
return redis.call('DEL', owner_key)
