-- put_webhook: Write or delete one webhook, and publish the new version to all processes.
-- KEYS    1 hash of webhooks, with the field "version"
-- ARGV    1 webhook id  2 the version that must be current ("": any)  3 JSON of the webhook ("": delete it)
--         4 the most webhooks  5 channel
-- Returns 1 if it was done, 0 if another version is current or there is nothing to delete, -1 if there are too many.
-- Cost    O(1)
local webhooks_key = KEYS[1]
local id, expected, webhook, most, channel = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local version = redis.call('HGET', webhooks_key, 'version') or '0'
if expected ~= '' and expected ~= version then return 0 end
if webhook == '' then
  if redis.call('HDEL', webhooks_key, id) == 0 then return 0 end
else
  local others = redis.call('HLEN', webhooks_key) - (version == '0' and 0 or 1) - redis.call('HEXISTS', webhooks_key, id)
  if others >= tonumber(most) then return -1 end
  redis.call('HSET', webhooks_key, id, webhook)
end
redis.call('PUBLISH', channel, redis.call('HINCRBY', webhooks_key, 'version', 1))
return 1
