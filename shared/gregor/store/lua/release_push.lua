-- release_push: a device gives up a push token, if it is (still) its owner.
-- KEYS 1 owner of the token  ARGV 1 the device, as the key names owners
-- Returns 1 where it was released, else 0. Cost O(1).
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
