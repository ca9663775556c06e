-- put_webhook: write or delete one webhook, and tell all processes.
-- KEYS 1 hash of webhooks, with the field "version"
-- ARGV 1 id  2 the version that must hold ('' any)  3 what is written ('' it goes)  4 at most so many  5 channel
-- Returns 1 where it was done, 0 where another version holds or there is nothing to delete, -1 where there are too many.
-- Cost O(1).
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if ARGV[2] ~= '' and ARGV[2] ~= version then return 0 end
if ARGV[3] == '' then
  if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
else
  local others = redis.call('HLEN', KEYS[1]) - (version == '0' and 0 or 1) - redis.call('HEXISTS', KEYS[1], ARGV[1])
  if others >= tonumber(ARGV[4]) then return -1 end
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
redis.call('PUBLISH', ARGV[5], redis.call('HINCRBY', KEYS[1], 'version', 1))
return 1
