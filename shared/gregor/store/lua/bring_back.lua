-- bring_back: what has waited until its time joins the stream again.
-- KEYS 1 stream  2 what waits, by time
-- ARGV 1 now µs  2 most
-- Returns how many. Cost O(moved × log waiting).
local call = redis.call
local due = call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, member in ipairs(due) do
  local fields = {}
  for name, value in pairs(cjson.decode(member)) do
    fields[#fields+1] = name
    fields[#fields+1] = value
  end
  call('XADD', KEYS[1], '*', unpack(fields))
  call('ZREM', KEYS[2], member)
end
return #due
