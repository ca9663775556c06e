-- bring_back: what has waited until its time joins the stream again; what nobody can read is set aside.
-- KEYS 1 stream  2 what waits, by time  3 what was set aside
-- ARGV 1 now µs  2 most  3 of what was set aside at most so many are kept
-- Returns how many are in the stream again. Cost O(moved × log waiting).
local call, moved = redis.call, 0
local due = call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, member in ipairs(due) do
  local is_good, intent = pcall(cjson.decode, member)
  local fields = {}
  if is_good and type(intent) == 'table' then
    for name, value in pairs(intent) do
      if type(value) == 'string' then
        fields[#fields+1] = name
        fields[#fields+1] = value
      end
    end
  end
  if #fields > 0 then
    call('XADD', KEYS[1], '*', unpack(fields))
    moved = moved + 1
  else
    call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'waited', member)
  end
  call('ZREM', KEYS[2], member)
end
return moved
