-- write_format: Make a format the written one, unless a later one is written already.
-- KEYS    1 hash of formats
-- ARGV    1 number of the format  2 release that begins to write it
--         3 the stored mark of the finish that calls this ("": none needed, a process restores what a failover lost)
-- Returns 1 if this or a later format is written now, 0 if another finish has replaced the mark.
-- Cost    O(1)
local formats_key = KEYS[1]
local number, release, mark = ARGV[1], ARGV[2], ARGV[3]
local call = redis.call
if mark ~= '' then
  if call('HGET', formats_key, 'finishing') ~= mark then return 0 end
  call('HDEL', formats_key, 'finishing')
end
if tonumber(call('HGET', formats_key, 'written') or '0') < tonumber(number) then
  call('HSET', formats_key, 'written', number, 'release', release)
end
return 1
