"""The yardstick of the commit benchmark: seven calls that any such store makes, and nothing else.

Check dismissed, check known, count, write, index by seq, index by expiry, publish.
"""

from __future__ import annotations

from gregor.redis.commands import Script

SOURCE = """
local user = KEYS[1]
local id, json, expires = ARGV[1], ARGV[2], ARGV[3]
if redis.call('ZSCORE', user .. ':gone', id) then return 0 end
if redis.call('HEXISTS', user .. ':items', id) == 1 then return 0 end
local seq = redis.call('HINCRBY', user .. ':meta', 'seq', 1)
redis.call('HSET', user .. ':items', id, json)
redis.call('ZADD', user .. ':seq', seq, id)
redis.call('ZADD', user .. ':expire', expires, id)
redis.call('SPUBLISH', user, json)
return seq
"""
SCRIPT = Script(SOURCE)
