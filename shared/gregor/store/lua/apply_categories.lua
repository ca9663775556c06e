-- apply_categories: make a whole set of entries the one that holds, and tell all processes.
-- KEYS 1 hash of versions  ARGV 1 the version that must hold ('' any)  2 the set  3 versions kept  4 channel
-- Returns the new version, or 0 where another holds than was expected. Cost O(1).
local version = tonumber(redis.call('HGET', KEYS[1], 'version') or '0')
if ARGV[1] ~= '' and tonumber(ARGV[1]) ~= version then return 0 end
version = version + 1
local name = string.format('%.0f', version)
redis.call('HSET', KEYS[1], 'version', name, name, ARGV[2])
redis.call('HDEL', KEYS[1], string.format('%.0f', version - tonumber(ARGV[3])))
redis.call('PUBLISH', ARGV[4], name)
return version
