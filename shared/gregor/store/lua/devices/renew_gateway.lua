-- renew_gateway: Record that a gateway is alive, by the clock of the server; forget the gateways that died long ago.
-- KEYS    1 gateways by their last renewal
-- ARGV    1 gateway  2 retention of dead gateways µs
-- Returns 1 if the gateway was known, else 0.
-- Cost    O(log gateways)
local gateways_key = KEYS[1]
local gateway, retention = ARGV[1], tonumber(ARGV[2])
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local added = call('ZADD', gateways_key, string.format('%.0f', now), gateway)
call('ZREMRANGEBYSCORE', gateways_key, '-inf', string.format('%.0f', now - retention))
call('PEXPIRE', gateways_key, string.format('%.0f', math.ceil(retention / 1000)))
return 1 - added
