-- renew_gateway: Record that a gateway is alive, by the clock of the server; forget the gateways that died long ago.
-- KEYS    1 gateways by their last renewal
-- ARGV    1 gateway  2 retention of dead gateways µs  3 lease of a gateway µs
-- Returns 1 if the gateway was alive, else 0: then others may have removed its sessions.
-- Cost    O(log gateways)
local gateways_key = KEYS[1]
local gateway, retention, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local before = call('ZSCORE', gateways_key, gateway)
call('ZADD', gateways_key, string.format('%.0f', now), gateway)
call('ZREMRANGEBYSCORE', gateways_key, '-inf', string.format('%.0f', now - retention))
call('PEXPIRE', gateways_key, string.format('%.0f', math.ceil(retention / 1000)))
return before and tonumber(before) > now - lease and 1 or 0
