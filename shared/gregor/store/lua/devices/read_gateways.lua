-- read_gateways: Return the gateways that renewed their lease since a moment, and the time of the server. Read only.
-- KEYS    1 gateways by their last renewal
-- ARGV    1 since µs
-- Returns {now µs, then gateway and time of its last renewal µs…}
-- Cost    O(gateways returned)
local gateways_key = KEYS[1]
local since = ARGV[1]
local call = redis.call
local time = call('TIME')
local reply = call('ZRANGEBYSCORE', gateways_key, since, '+inf', 'WITHSCORES')
table.insert(reply, 1, string.format('%.0f', time[1] * 1000000 + time[2]))
return reply
