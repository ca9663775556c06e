-- apply_categories: Make a whole set of category entries the current one, and publish its version to all processes.
-- KEYS    1 hash of versions
-- ARGV    1 the version that must be current ("": any)  2 the set  3 number of versions kept  4 channel
-- Returns the new version, or 0 if another version is current.
-- Cost    O(1)
local categories_key = KEYS[1]
local expected, entries, kept_versions, channel = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local version = tonumber(redis.call('HGET', categories_key, 'version') or '0')
if expected ~= '' and tonumber(expected) ~= version then return 0 end
version = version + 1
local name = string.format('%.0f', version)
redis.call('HSET', categories_key, 'version', name, name, entries)
redis.call('HDEL', categories_key, string.format('%.0f', version - tonumber(kept_versions)))
redis.call('PUBLISH', channel, name)
return version
